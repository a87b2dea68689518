"""Where a kernel of the mixed operation may be looser than the default budget, and why."""

from dataclasses import replace

from fastnas_kernels.audit.gate import Budget, Case

NARROW = Budget(
    vector_share=0.0,
    reasons={
        "vector_share": "the candidates see four channels of each pixel, 8 bytes in bfloat16",
    },
)

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
    width = 2 if "*bf16" in case.signature.values() else 4
    budget = NARROW if case.constants["C"] * width < 16 else Budget()
    exceptions = {"gfx942": AMD}
    if case.kernel.__name__ == "pointwise_backward_kernel" and not case.constants["WEIGHTS"]:
        reasons = {**budget.reasons, "registers": NEWEST}
        exceptions["sm_100"] = replace(budget, registers=170, reasons=reasons)
    return replace(case, budget=budget, exceptions=exceptions)
