"""Where a kernel of the mixed operation may be looser than the default budget, and why."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from fastnas_kernels.audit.gate import Budget, Case


@dataclass(frozen=True)
class Allowance:
    """The least share of 128-bit accesses of the cases that ``applies`` to, and why it may be so low."""

    kernels: tuple[str, ...]
    applies: Callable[[Case], bool]
    vector_share: float
    reason: str


def _is_bf16(case: Case) -> bool:
    return "*bf16" in case.signature.values()


def _is_narrow(case: Case) -> bool:
    """Whether the numbers that lie side by side, a pixel's or one group of a node's, are fewer than 16 bytes."""
    groups = case.constants["K"] if case.constants.get("NODE_STATE") else 1
    return case.constants["C"] // groups < (8 if _is_bf16(case) else 4)


STATISTICS = "beside its tiles it reads or writes rows of statistics, one number a channel and thread"
NARROW = (
    "the numbers of one pixel, or of one group of a node's channels, that lie side by side have fewer than 16 bytes"
)
REDUCING = ("stage", "pool_statistics", "finalise", "pointwise_backward", "gather", "bypass_backward")
ALLOWANCES = (
    Allowance((), _is_narrow, 0.0, NARROW),
    Allowance(REDUCING, _is_bf16, 0.38, f"{STATISTICS}, and in bfloat16 a tile takes half as many accesses"),
    Allowance(("stage",), lambda case: True, 0.53, STATISTICS),
    Allowance(("pool_statistics", "finalise", "pointwise_backward"), lambda case: True, 0.6, STATISTICS),
)
"""The first that applies holds; no ``kernels`` stands for all."""

AMD = Budget(
    registers=256,
    vector_share=0.0,
    reasons={
        "registers": "AMD's units have 512 registers a thread: at 256, two wavefronts share one",
        "vector_share": "the tiles were chosen for NVIDIA; what AMD's accesses need, only one of its GPUs can tell",
    },
)


NEWEST = "of the targets, ptxas is newest for this one and the tiles were chosen for sm_80 and sm_90"


def with_budgets(case: Case) -> Case:
    """``case`` with what it may use."""
    kernel = case.kernel.__name__.removesuffix("_kernel")
    budget = _narrow(kernel, case)
    exceptions = {"gfx942": AMD}
    if kernel == "pointwise_backward" and not case.constants["WEIGHTS"]:
        exceptions["sm_100"] = _looser(budget, NEWEST, registers=170)
    return replace(case, budget=budget, exceptions=exceptions)


def _looser(budget: Budget, reason: str, **limits: int) -> Budget:
    return replace(budget, **limits, reasons={**budget.reasons, **dict.fromkeys(limits, reason)})  # type: ignore[arg-type]


def _narrow(kernel: str, case: Case) -> Budget:
    for allowance in ALLOWANCES:
        if kernel in (allowance.kernels or (kernel,)) and allowance.applies(case):
            return Budget(vector_share=allowance.vector_share, reasons={"vector_share": allowance.reason})
    return Budget()
