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


def _shuffles(case: Case) -> bool:
    return case.constants.get("K", 1) > 1 and case.constants.get("NODE_STATE", True)


STATISTICS = "beside its tiles it reads or writes rows of statistics, one number a channel and thread"
SHUFFLE = "channels of one pixel go where the shuffle puts them, K apart from each other"
NARROW = "a pixel's row of fewer than 8 numbers in bfloat16 has fewer than 16 bytes"
ALLOWANCES = (
    Allowance((), lambda case: _is_bf16(case) and case.constants["C"] < 8, 0.0, NARROW),
    Allowance(("node",), _shuffles, 0.3, SHUFFLE),
    Allowance(("bypass", "gather", "bypass_backward"), _shuffles, 0.0, SHUFFLE),
    Allowance((), _is_bf16, 0.25, f"{STATISTICS}, and in bfloat16 a tile takes half as many accesses"),
    Allowance(("stage", "pool_statistics", "finalise"), lambda case: True, 0.5, STATISTICS),
    Allowance(("gather", "bypass_backward", "pointwise_backward"), lambda case: True, 0.6, STATISTICS),
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
