"""Compiles a Triton kernel for a GPU that need not be present, and reads what the compiler made of it.

Registers, spills, widths of accesses and the mix of instructions stand in the machine code itself; they decide over
most of a kernel's speed and none of them shows in the interpreter. Code for NVIDIA is disassembled with the
``cuobjdump`` that Triton brings along; code for AMD is read as the compiler's text.
"""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.runtime.jit import JITFunction

from fastnas_audit.instructions import Stretch, instructions, places, stretches
from fastnas_kernels.check import complaint, invalid

Type = str | tuple[str, ...]
"""The type of an argument in Triton's words, such as ``*fp32`` or ``i32``; for a tuple, of each element."""


@dataclass(frozen=True)
class Target:
    """A GPU to compile for, and the shared memory (bytes) that one program may have on it."""

    gpu: GPUTarget
    shared_limit: int


TARGETS: Mapping[str, Target] = {
    "sm_80": Target(GPUTarget("cuda", 80, 32), shared_limit=163 * 1024),
    "sm_90": Target(GPUTarget("cuda", 90, 32), shared_limit=227 * 1024),
    "sm_100": Target(GPUTarget("cuda", 100, 32), shared_limit=227 * 1024),
    "gfx942": Target(GPUTarget("hip", "gfx942", 64), shared_limit=64 * 1024),
}
MATRIX = {"HMMA", "IMMA", "DMMA", "BMMA", "QMMA", "OMMA", "HGMMA", "IGMMA", "BGMMA", "QGMMA"}
BITS_BY_WORD = {"256": 256, "128": 128, "64": 64, "U16": 16, "S16": 16, "U8": 8, "S8": 8}
BITS_BY_AMD_WORD = {"dwordx4": 128, "dwordx3": 96, "dwordx2": 64, "dword": 32, "short": 16, "byte": 8}


@dataclass(frozen=True)
class Assembly:
    """What the compiler made of one kernel on one target; all counts are of instructions in the code, not of runs.

    Attributes:
        kernel: Name of the kernel.
        target: Name of the target, a key of ``TARGETS``.
        registers: Vector registers of a thread.
        spills: Accesses to local memory (``LDL``, ``STL``); on AMD the vector registers spilled.
        spill_bytes: Stack and local memory of a thread.
        shared_bytes: Shared memory of a program.
        loads: Number of loads from global memory for each width in bits; copies to shared memory included.
        stores: Number of stores to global memory for each width in bits.
        scalars: Accesses to global memory at one address for the whole program, such as an entry of a table. They are
            among ``loads`` and ``stores``. On AMD most of them go through the scalar unit and are in neither.
        barriers: Barriers among the threads of a program.
        ffma: Multiply-adds in float32; one that works on a pair counts twice.
        matrix: Matrix instructions.
        atomics: Atomics on global memory.
        instructions: All instructions.
        num_bytes: Size of the binary, headers included.
        stretches: Instructions of each kind by the loops in which they stand; empty on AMD, and where a loop is none of
            the source's, such as one that the compiler made of a division.
    """

    kernel: str
    target: str
    registers: int
    spills: int
    spill_bytes: int
    shared_bytes: int
    loads: Mapping[int, int]
    stores: Mapping[int, int]
    scalars: int
    barriers: int
    ffma: int
    matrix: int
    atomics: int
    instructions: int
    num_bytes: int
    stretches: Sequence[Stretch] = ()

    @property
    def vector_share(self) -> float:
        """Share of the accesses to tiles in global memory that are at least 128 bits wide; 1 without any.

        Scalars do not count: they cannot be wider.
        """
        counts = Counter(self.loads) + Counter(self.stores)
        wide = sum(count for bits, count in counts.items() if bits >= 128)
        tiles = max(counts.total() - self.scalars, wide)
        return wide / tiles if tiles else 1.0


def compile_for(
    kernel: JITFunction,
    signature: Mapping[str, Type],
    constants: Mapping[str, Any],
    target: str,
    num_warps: int = 4,
    num_stages: int | None = None,
    maxnreg: int | None = None,
    divisible_by_16: Sequence[str] | None = None,
) -> CompiledKernel:
    """Compile a kernel ahead of time; needs neither a GPU nor its driver.

    Args:
        kernel: The kernel, as ``triton.jit`` returns it.
        signature: Type of each argument that is known only at run time, for a tuple those of its elements:
            ``{"x_ptr": "*fp32", "n": "i32", "ys": ("*fp32", "*fp32")}``.
        constants: Value of every ``constexpr`` argument.
        target: A key of ``TARGETS``.
        num_warps: Warps in a program.
        num_stages: Stages of software pipelining; if ``None``, what Triton takes on that target where a launch does
            not say.
        maxnreg: Registers that a thread may have on NVIDIA; if ``None``, the compiler chooses.
        divisible_by_16: Arguments, pointers and integers alike, that are multiples of 16, as a launch finds out for
            itself; a tuple if all its elements are. All pointers if ``None``, since PyTorch aligns its tensors.

    Returns:
        What ``triton.compile`` returns, for :func:`audit`.

    Raises:
        RuntimeError: if the process interprets kernels: there ``triton.jit``, also where Triton's own library uses it,
            returns what cannot be compiled. :func:`fastnas_audit.elsewhere.assemblies` works in any process.
        ValueError: if an argument has no type and no value or both, or the target is unknown.
        TritonError: if Triton cannot compile the kernel.
    """
    where = "compile_for"
    if target not in TARGETS:
        raise invalid(where, f"target must be one of {', '.join(TARGETS)}", target)
    names = list(kernel.arg_names)
    given = sorted([*signature, *constants])
    rule = f"signature and constants together must name each of {names} once"
    if given != sorted(names):
        raise invalid(where, rule, given)
    aligned = pointers(signature) if divisible_by_16 is None else divisible_by_16
    if not set(aligned) <= set(signature):
        raise invalid(where, f"divisible_by_16 must be among {list(signature)}", list(aligned))
    if not isinstance(kernel, JITFunction):
        rule = "kernel must be what triton.jit returns where it compiles"
        remedy = "Unset TRITON_INTERPRET, or use fastnas_audit.elsewhere."
        raise RuntimeError(complaint(where, rule, type(kernel).__name__, remedy))
    source = ASTSource(
        fn=kernel,
        signature={name: signature.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={path: [["tt.divisibility", 16]] for name in aligned for path in _paths(names, name, signature[name])},
    )
    options = {"num_warps": num_warps, "num_stages": num_stages, "maxnreg": maxnreg}
    options = {name: value for name, value in options.items() if value is not None}
    return triton.compile(source, target=TARGETS[target].gpu, options=options)


def pointers(signature: Mapping[str, Type]) -> tuple[str, ...]:
    """The arguments of ``signature`` that are pointers or tuples of nothing else."""
    kinds = {name: (kind,) if isinstance(kind, str) else kind for name, kind in signature.items()}
    return tuple(name for name, parts in kinds.items() if all(part.startswith("*") for part in parts))


def _paths(names: Sequence[str], name: str, kind: Type) -> Iterator[tuple[int, ...]]:
    """Where Triton finds the parts of the argument ``name``: by its place, in a tuple by the place in that as well."""
    place = names.index(name)
    if isinstance(kind, str):
        yield (place,)
    else:
        yield from ((place, i) for i in range(len(kind)))


def audit(compiled: CompiledKernel) -> Assembly:
    """Read registers, spills, widths and instructions out of a kernel that :func:`compile_for` has compiled."""
    return _audit_amd(compiled) if compiled.metadata.target.backend == "hip" else _audit_nvidia(compiled)


def _audit_nvidia(compiled: CompiledKernel) -> Assembly:
    binary = compiled.asm["cubin"]
    code = _disassembled(binary)
    pattern = r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)"
    operations = Counter(re.findall(pattern, code, re.MULTILINE))
    names = Counter[str]()
    for operation, count in operations.items():
        names[operation.split(".")[0]] += count

    def widths(*opcodes: str) -> dict[int, int]:
        found = Counter[int]()
        for operation, count in operations.items():
            name, *words = operation.split(".")
            if name in opcodes:
                found[max((BITS_BY_WORD[word] for word in words if word in BITS_BY_WORD), default=32)] += count
        return dict(sorted(found.items()))

    return Assembly(
        kernel=compiled.metadata.name,
        target=f"sm_{compiled.metadata.target.arch}",
        registers=max(_numbers(r"\bREG:(\d+)", code)),
        spills=names["LDL"] + names["STL"],
        spill_bytes=sum(_numbers(r"\b(?:STACK|LOCAL):(\d+)", code)),
        shared_bytes=compiled.metadata.shared,
        loads=widths("LDG", "LDGSTS"),
        stores=widths("STG"),
        scalars=_scalars(compiled),
        barriers=names["BAR"],
        ffma=names["FFMA"] + 2 * names["FFMA2"],
        # A tensor core of sm_100 is driven by UTCHMMA, UTCQMMA and their like; HFMA2.MMA is none of them
        matrix=sum(count for name, count in names.items() if name in MATRIX or re.fullmatch(r"UTC\w*MMA", name)),
        atomics=sum(names[name] for name in ("ATOM", "ATOMG", "RED", "REDG")),
        instructions=names.total(),
        num_bytes=len(binary),
        stretches=_stretches(binary, code),
    )


def _audit_amd(compiled: CompiledKernel) -> Assembly:
    code = compiled.asm["amdgcn"]
    names = Counter(re.findall(r"^\s+([a-z]+_[a-z0-9_]+)\b", code, re.MULTILINE))

    def widths(way: str) -> dict[int, int]:
        found = Counter[int]()
        for name, count in names.items():
            if re.match(rf"(global|buffer|flat)_{way}_", name):
                found[next(bits for word, bits in BITS_BY_AMD_WORD.items() if word in name)] += count
        return dict(sorted(found.items()))

    def number_of(pattern: str) -> int:
        return sum(count for name, count in names.items() if re.match(pattern, name))

    return Assembly(
        kernel=compiled.metadata.name,
        target=compiled.metadata.target.arch,
        registers=max(_numbers(r"\.vgpr_count:\s+(\d+)", code)),
        spills=sum(_numbers(r"\.vgpr_spill_count:\s+(\d+)", code)),
        spill_bytes=sum(_numbers(r"\.private_segment_fixed_size:\s+(\d+)", code)),
        shared_bytes=compiled.metadata.shared,
        loads=widths("load"),
        stores=widths("store"),
        scalars=0,
        barriers=names["s_barrier"],
        ffma=number_of(r"v_(fma|fmac|mac)_f32") + 2 * number_of(r"v_pk_fma_f32"),
        matrix=number_of(r"v_s?mfma_"),
        atomics=number_of(r"(global|buffer|flat)_atomic_"),
        instructions=names.total(),
        num_bytes=len(compiled.asm["hsaco"]),
    )


def _scalars(compiled: CompiledKernel) -> int:
    """Loads and stores of single numbers in the compiler's intermediate form, where a tile is a tensor of pointers."""
    return len(re.findall(r"\btt\.(?:load|store) .*: !tt\.ptr<", compiled.asm["ttgir"]))


def _numbers(pattern: str, text: str) -> Iterable[int]:
    found = [int(number) for number in re.findall(pattern, text)]
    assert found, f"the compiler's report lacks {pattern}"
    return found


def _disassembled(binary: bytes) -> str:
    """The resource usage and the instructions of a cubin, as text."""
    return _told(binary, "cuobjdump", "-res-usage", "-sass")


def _stretches(binary: bytes, code: str) -> Sequence[Stretch]:
    try:
        return stretches(instructions(code), places(_told(binary, "nvdisasm", "-gi")))
    except ValueError:
        return ()


def _told(binary: bytes, tool: str, *options: str) -> str:
    """What one of the tools that Triton brings along says of a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool, *options, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
