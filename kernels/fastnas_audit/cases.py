"""The launches that an ahead-of-time compiler is asked to build for GPUs that are not here."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import triton.language as tl

from fastnas_audit import cell_cases
from fastnas_audit.assembly import TARGETS, Type, pointers
from fastnas_audit.gate import Budget, Case
from fastnas_kernels.check import invalid
from fastnas_kernels.gumbel import kernel as gumbel
from fastnas_kernels.mixture import kernel as mixture
from fastnas_kernels.partial_channels import kernel as partial_channels

_WIDTHS = {"fp32": 4, "bf16": 2}
AMD_SMALL = replace(
    cell_cases.AMD,
    registers=288,
    reasons={
        **cell_cases.AMD.reasons,
        "registers": "LLVM moves the loads of a weighted sum of many tensors to the front",
    },
)


def cases_for(target: str, dtypes: Sequence[torch.dtype] = ()) -> tuple[Case, ...]:
    """Every kernel of the library as it is launched on ``target``, a key of ``TARGETS``, in float32 and bfloat16; with
    ``dtypes``, every kernel of a cell in these.

    Raises:
        ValueError: if the target is none of these.
        RuntimeError: if Triton does not interpret, which recording launches needs.
    """
    if target not in TARGETS:
        raise invalid("cases_for", f"target must be among {', '.join(TARGETS)}", target)
    of_cells = cell_cases.cases(target, tuple(dtypes))
    return of_cells if dtypes else (*small_cases(), *of_cells)


def small_cases() -> tuple[Case, ...]:
    """Every kernel of this folder's small families, in float32 and bfloat16."""
    mixtures = [case for dtype in _WIDTHS for K in (8, 35) for case in _mixture(dtype, K)]
    return (*mixtures, *(case for dtype in _WIDTHS for case in _partial_channels(dtype)), _gumbel())


def _case(
    name: str,
    kernel: Any,
    signature: Mapping[str, Type],
    constants: Mapping[str, Any],
    aligned: tuple[str, ...] = (),
    num_warps: int = 4,
    narrow: tuple[float, str] | None = None,
) -> Case:
    """A case whose pointers are multiples of 16, and the integers ``aligned``; ``narrow`` is the least share of
    128-bit accesses and the reason, where that is below the default."""
    budget = Budget() if narrow is None else Budget(vector_share=narrow[0], reasons={"vector_share": narrow[1]})
    multiples = (*pointers(signature), *aligned)
    return Case(
        name,
        kernel,
        signature,
        constants,
        num_warps,
        divisible_by_16=multiples,
        budget=budget,
        exceptions={"gfx942": AMD_SMALL},
    )


def _mixture(dtype: str, K: int) -> list[Case]:
    x, many = f"*{dtype}", (f"*{dtype}",) * K
    constants = {"K": K, "ACC": tl.float32, "BLOCK_M": mixture.BLOCK_M}
    dot_constants = constants | {"BLOCK_M": mixture.DOT_BLOCK_M}
    weighted_sum = {"xs": many, "mix_ptr": "*fp32", "y_ptr": x, "M": "i32"}
    row_dot = {"xs": many, "g_ptr": x, "partial_ptr": "*fp32", "M": "i32", "row": "i32"}
    copies = {"mix_ptr": "*fp32", "g_ptr": x, "ys": many, "M": "i32"}
    name = f"K={K} {dtype}"
    return [
        _case(
            f"weighted_sum {name}",
            mixture.weighted_sum_kernel,
            weighted_sum,
            constants | {"start_ptr": None},
            ("M",),
        ),
        _case(f"row_dot {name}", mixture.row_dot_kernel, row_dot, dot_constants, ("M",), num_warps=1),
        _case(f"scaled_copies {name}", mixture.scaled_copies_kernel, copies, constants, ("M",)),
    ]


def _partial_channels(dtype: str) -> list[Case]:
    x = f"*{dtype}"
    module, block = partial_channels, partial_channels.BLOCK_BYTES // _WIDTHS[dtype]
    images = {"mixed_ptr": x, "bypass_ptr": x, "y_ptr": x}
    found = []
    for k in (2, 4):
        constants = {"C": 16, "GROUPS": k, "BLOCK_Q": block // k}
        for kernel in (module.interleave_kernel, module.deinterleave_kernel):
            name = f"{kernel.fn.__name__.removesuffix('_kernel')} k={k} {dtype}"
            found.append(_case(name, kernel, images | {"Q": "i32"}, constants, ("Q",)))
    constants = {"C": 16, "GROUPS": 4, "BLOCK_M": module.LOOKUP_BLOCK_M}
    anywhere = (0.0, "neighbours in the result lie anywhere in the arguments")
    for kernel in (module.merge_kernel, module.split_kernel):
        name = kernel.fn.__name__.removesuffix("_kernel")
        planes, ordered = images | {"M": "i32", "INNER": "i32"}, images | {"order_ptr": "*i64", "M": "i32"}
        found += [
            _case(f"{name} planes {dtype}", kernel, planes, constants | {"order_ptr": None}, ("M", "INNER")),
            _case(f"{name} ordered {dtype}", kernel, ordered, constants | {"INNER": 1}, ("M",), narrow=anywhere),
        ]
    return found


def _gumbel() -> Case:
    pointers_to = dict.fromkeys(("alpha_ptr", "soft_ptr", "hard_ptr"), "*fp32")
    return _case(
        "gumbel_softmax fp32",
        gumbel.gumbel_softmax_kernel,
        {**pointers_to, "alive_ptr": "*u8", "tau_ptr": "*fp64", "index_ptr": "*i64", "seed_ptr": "*i64", "E": "i32"},
        {"K": 8, "BLOCK_E": gumbel.BLOCK_E, "BLOCK_K": 8},
        narrow=(0.0, "fewer numbers than threads"),
    )
