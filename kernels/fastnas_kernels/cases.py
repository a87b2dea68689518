"""The launches of the small kernels that an ahead-of-time compiler is asked to build for GPUs that are not here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import triton.language as tl

from fastnas_kernels import gumbel_triton, mixture_triton, partial_channels_triton


@dataclass(frozen=True)
class Case:
    """One way in which a kernel is compiled.

    Args:
        name: What to call it in a table.
        kernel: What ``triton.jit`` returned.
        signature: The type of every argument that is known only at run time; a tuple of types for a tuple of pointers.
        constants: The value of every other argument.
        num_warps: Warps of one program.
        divisible_by_16: The integer arguments that are multiples of 16 in this case; pointers always are.
        vector_share: The least share of 128-bit accesses among those to global memory.
        reason: Why that share is smaller than 0.7, if it is.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str | tuple[str, ...]]
    constants: Mapping[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    divisible_by_16: tuple[str, ...] = ()
    vector_share: float = 0.7
    reason: str = ""


_WIDTHS = {"fp32": 4, "bf16": 2}


def cases() -> tuple[Case, ...]:
    """Every kernel of this folder's small families, in float32 and bfloat16."""
    mixtures = [case for dtype in _WIDTHS for K in (8, 35) for case in _mixture(dtype, K)]
    return (*mixtures, *(case for dtype in _WIDTHS for case in _partial_channels(dtype)), _gumbel())


def _mixture(dtype: str, K: int) -> list[Case]:
    x, many = f"*{dtype}", (f"*{dtype}",) * K
    constants = {"K": K, "ACC": tl.float32, "BLOCK_M": mixture_triton.BLOCK_M}
    dot_constants = constants | {"BLOCK_M": mixture_triton.DOT_BLOCK_M}
    name = f"K={K} {dtype}"
    share: dict[str, Any] = {}
    if dtype == "bf16":
        share = {"vector_share": 0.65, "reason": "a 32-bit coefficient for every two 128-bit accesses to its tensor"}
    return [
        Case(
            f"weighted_sum {name}",
            mixture_triton.weighted_sum_kernel,
            {"xs": many, "mix_ptr": "*fp32", "y_ptr": x, "M": "i32"},
            constants | {"start_ptr": None},
            divisible_by_16=("M",),
            **share,
        ),
        Case(
            f"row_dot {name}",
            mixture_triton.row_dot_kernel,
            {"xs": many, "g_ptr": x, "partial_ptr": "*fp32", "M": "i32", "row": "i32"},
            dot_constants,
            num_warps=1,
            divisible_by_16=("M",),
        ),
        Case(
            f"scaled_copies {name}",
            mixture_triton.scaled_copies_kernel,
            {"mix_ptr": "*fp32", "g_ptr": x, "ys": many, "M": "i32"},
            constants,
            divisible_by_16=("M",),
            **share,
        ),
    ]


def _partial_channels(dtype: str) -> list[Case]:
    x = f"*{dtype}"
    module, block = partial_channels_triton, partial_channels_triton.BLOCK_BYTES // _WIDTHS[dtype]
    images = {"mixed_ptr": x, "bypass_ptr": x, "y_ptr": x}
    found = []
    for k in (2, 4):
        constants = {"WIDTH": 16, "GROUPS": k, "BLOCK_Q": block // k}
        for kernel in (module.interleave_kernel, module.deinterleave_kernel):
            name = f"{kernel.fn.__name__.removesuffix('_kernel')} k={k} {dtype}"
            found.append(Case(name, kernel, images | {"Q": "i32"}, constants, divisible_by_16=("Q",)))
    constants = {"C_MIXED": 16, "C": 64, "GROUPS": 4, "BLOCK_M": module.LOOKUP_BLOCK_M}
    for kernel in (module.merge_kernel, module.split_kernel):
        name = kernel.fn.__name__.removesuffix("_kernel")
        planes = images | {"M": "i32", "INNER": "i32"}
        found += [
            Case(
                f"{name} planes {dtype}",
                kernel,
                planes,
                constants | {"order_ptr": None},
                divisible_by_16=("M", "INNER"),
            ),
            Case(
                f"{name} ordered {dtype}",
                kernel,
                images | {"order_ptr": "*i64", "M": "i32"},
                constants | {"INNER": 1},
                divisible_by_16=("M",),
                vector_share=0.0,
                reason="neighbours in the result lie anywhere in the arguments",
            ),
        ]
    return found


def _gumbel() -> Case:
    pointers = dict.fromkeys(("alpha_ptr", "soft_ptr", "hard_ptr"), "*fp32")
    return Case(
        "gumbel_softmax fp32",
        gumbel_triton.gumbel_softmax_kernel,
        {**pointers, "alive_ptr": "*u8", "tau_ptr": "*fp64", "index_ptr": "*i64", "seed": "i64", "E": "i32"},
        {"K": 8, "BLOCK_E": gumbel_triton.BLOCK_E, "BLOCK_K": 8},
        vector_share=0.0,
        reason="fewer numbers than threads",
    )
