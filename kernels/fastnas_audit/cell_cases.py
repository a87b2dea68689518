"""The forms in which cells of the shipped spaces ask for the mixed operation's kernels, recorded from the cells.

A form is what a compiler makes other code of: channels, strides, dtypes and steps multiply to hundreds, most of which
differ in a number. Compiled is each way through the code once, at a size that a published search launches:

- DARTS (Liu et al., 2019, arXiv:1806.09055) on CIFAR in float32: the first cell, of 16 channels, and the first
  reduction, of 32, whose products go through matrix units;
- PC-DARTS (Xu et al., 2020, arXiv:1907.05737) on CIFAR in float32: the first cell, a quarter of 16 channels;
- PC-DARTS on ImageNet in both: the first cell, half of 16 channels;
- the same in bfloat16: the first reduction, half of 32 channels, and the last cell, half of 64;
- the spaces S2 and S3 of RobustDARTS (Zela et al., 2020, arXiv:1909.09656), which have no pools, where they differ.

Of the bundles of edges that share a program those of one edge and the fullest stand for those between. Numbers with a
tangent are in float32 whatever states are kept in, and recorded of the cells in it. Asked for by dtype, as float64 is,
it is all cells in these.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import torch

from fastnas_audit.gate import Budget, Case
from fastnas_audit.interpreter import replaced
from fastnas_audit.record import is_oldest
from fastnas_audit.recorder import Launch, case_of, recorded, same_code
from fastnas_kernels.mixed_op import launch, launch_backward
from fastnas_kernels.mixed_op.dual import launch as launch_dual
from fastnas_kernels.mixed_op.dual import launch_backward as launch_dual_backward
from fastnas_kernels.mixed_op.plan import Candidate, CellPlan, EdgePlan
from fastnas_kernels.tensors import accumulator

SKIP, SEPARABLE = Candidate("skip"), Candidate("depthwise", 3, 1, 2)
FILTERS = (SEPARABLE, Candidate("depthwise", 5, 1, 2), Candidate("depthwise", 3, 2, 1), Candidate("depthwise", 5, 2, 1))
DARTS = (Candidate("max_pool"), Candidate("avg_pool"), SKIP, *FILTERS)
SMALL = (SKIP, SEPARABLE)
CELLS = (
    (DARTS, 1, 16, 1, torch.float32),
    (DARTS, 1, 32, 2, torch.float32),
    (SMALL, 1, 16, 1, torch.float32),
    (DARTS, 4, 16, 1, torch.float32),
    (DARTS, 2, 16, 1, torch.float32),
    (DARTS, 2, 16, 1, torch.bfloat16),
    (DARTS, 2, 32, 2, torch.bfloat16),
    (DARTS, 2, 64, 1, torch.bfloat16),
)
"""Candidates of an edge, the divisor of the channels that they see, the channels of a state, the stride of the cell,
and what its states are kept in."""
SHOWN = (
    "C", "GROUPS", "STRIDE", "NORMALISED", "BACKWARD", "KEEP", "KEEP_T", "EDGES", "ABREAST", "WEIGHTS", "POOLS",
    "NODE_STATE",
)  # fmt: skip
"""The constants that tell cases of one kernel apart."""
NAMES = {"GROUPS": "k", "KEEP_T": "t"}  # as papers call it


def plan_of(candidates: Sequence[Candidate], k: int, channels: int, stride: int) -> CellPlan:
    """A cell in which each of four nodes reads all earlier states and both inputs, through all ``candidates``."""
    edges = tuple(EdgePlan(source, target, tuple(candidates)) for target in range(2, 6) for source in range(target))
    return CellPlan(channels, 2, 4, edges, stride, k)


def launches(plan: CellPlan, dtype: torch.dtype) -> list[Launch]:
    """What a cell launches forward, backward in the weight step, and backward in the alpha step."""
    # Neither the number of images nor their size decides over any kernel's code
    inputs_INHWS = torch.zeros(plan.num_inputs, 1, 4, 4, plan.channels, dtype=dtype)
    weights = [torch.zeros(shape) for shapes in plan.weight_shapes.values() for shape in shapes]
    mix, edge_mix = torch.zeros(plan.num_coefficients), torch.zeros(len(plan.edges))
    with recorded() as found:
        nodes, stats, packed, _ = launch.run_forward(inputs_INHWS, weights, mix, edge_mix, None, plan)
        for needs_weights in (True, False):
            needs = (True, needs_weights, True, plan.k > 1)
            launch_backward.run_backward(nodes, inputs_INHWS, nodes, packed, mix, edge_mix, stats, False, needs, plan)
    return found


def dual_launches(plan: CellPlan, dtype: torch.dtype) -> list[Launch]:
    """What the second derivatives of a cell launch beside its values."""
    inputs = [torch.zeros(plan.num_inputs, 1, 4, 4, plan.channels, dtype=dtype)] * 2
    weights = [torch.zeros(shape) for shapes in plan.weight_shapes.values() for shape in shapes]
    mix, edge_mix = [torch.zeros(plan.num_coefficients)] * 2, [torch.zeros(len(plan.edges))] * 2
    with recorded() as found:
        *nodes, stats, packed, _ = launch_dual.run_dual_forward(inputs, weights, weights, mix, edge_mix, None, plan)
        for needs_weights in (True, False):
            needs = (True, needs_weights, True, plan.k > 1)
            launch_dual_backward.run_dual_backward(
                nodes, inputs, nodes, packed, mix, edge_mix, stats, False, needs, plan
            )
    return [launch for launch in found if launch.name.startswith("dual")]


@cache
def cases(target: str = "sm_90", dtypes: tuple[torch.dtype, ...] = ()) -> tuple[Case, ...]:
    """Every kernel in the forms that the module names, each once, as launched on a ``target``; with ``dtypes`` all
    cells in each of these.

    Raises:
        RuntimeError: if Triton does not interpret.
    """
    with replaced(launch, target_of=lambda device: target):
        found = {same_code(case): case for case in _all_cases(dtypes)}
    return tuple(with_budgets(case) for case in sorted(found.values(), key=lambda case: case.name))


def _all_cases(dtypes: Sequence[torch.dtype]) -> Iterator[Case]:
    for candidates, k, channels, stride, own in CELLS:
        plan = plan_of(candidates, k, channels, stride)
        for dtype in dtypes or (own,):
            of_cell = [_named(case_of(found, found.name), dtype) for found in launches(plan, dtype)]
            if dtype == accumulator(dtype):  # in which tangents are, whatever states are kept in
                of_cell += [_named(case_of(found, found.name), dtype) for found in dual_launches(plan, dtype)]
            fullest = max(case.constants.get("EDGES", 1) for case in of_cell)
            yield from (case for case in of_cell if case.constants.get("EDGES", 1) in (1, fullest))


def _named(case: Case, dtype: torch.dtype) -> Case:
    shown = [f"{NAMES.get(name, name.lower())}={int(case.constants[name])}" for name in SHOWN if name in case.constants]
    return replace(case, name=" ".join([case.name.removesuffix("_kernel"), *shown, str(dtype).removeprefix("torch.")]))


NARROW = Budget(
    vector_share=0.0,
    reasons={
        "vector_share": "the candidates see four channels of each pixel, 8 bytes in bfloat16",
    },
)

TAPS = Budget(
    vector_share=0.5,
    reasons={
        "vector_share": "35 sums are stored one number a thread, once a program; what the loop reads is 128 bits wide",
    },
)

NARROW_TAPS = replace(
    TAPS,
    registers=200,
    reasons={
        **TAPS.reasons,
        "registers": "five programs of two warps share a multiprocessor; at 168 five numbers spill",
    },
)

FEW = Budget(
    vector_share=0.0,
    reasons={"vector_share": "a thread has four numbers of each tap, 8 bytes in bfloat16: it adds up 25 of them"},
)

SHUFFLED = Budget(
    vector_share=0.2,
    reasons={"vector_share": "tangents are stored where a shuffle puts them, one number of a group beside the other"},
)

PAIRS = Budget(
    vector_share=0.6,
    reasons={"vector_share": "a thread has two numbers each of 16 pixels times 16 channels, or pairs would spill"},
)

FILTER = Budget(
    vector_share=0.6,
    reasons={
        "vector_share": "the gradient of a 1x1 filter is stored a number or two a thread, once a program",
    },
)

EXACT = Budget(
    registers=255,
    vector_share=0.0,
    reasons={
        "registers": "float64 is for comparisons, not for speed",
        "vector_share": "float64 is for comparisons, not for speed",
    },
)

OF_EXACT = {
    "gather_kernel": 14,
    "node_kernel": 2,
    "stage_kernel": 2,
    "dual_gather_kernel": 2,
    "dual_pool_backward_kernel": 4,
}
"""Spills of float64 on sm_90."""

AMD = Budget(
    registers=256,
    vector_share=0.0,
    reasons={
        "registers": "AMD's units have 512 registers a thread: at 256, two wavefronts share one",
        "vector_share": "the tiles were chosen for NVIDIA; what AMD's accesses need, only one of its GPUs can tell",
    },
)

FOR_SM_90 = {
    "spills": "ptxas keeps an address or two of 8 bytes in local memory; limits that avoid it are for sm_90",
    "registers": "tiles were chosen by what is made of them for sm_90",
}
OF_SM_80 = {"stage_kernel": {"registers": 198}, "gather_kernel": {"spills": 4}}
"""What is needed for sm_80 beyond the budget for sm_90."""
OF_SM_100 = {"depthwise_weights_kernel": {"registers": 182}}
"""The same for sm_100."""
NEWEST = "of the targets, ptxas is newest for this one; two programs share a multiprocessor, or 18 numbers would spill"
OLDEST = "tiles and limits of registers were chosen for Triton 3.8"
OF_OLDEST = {
    "gather_kernel": {"registers": 233, "spills": 16},
    "stage_kernel": {"registers": 208, "spills": 2},
    "depthwise_weights_kernel": {"spills": 58},
    "pool_backward_kernel": {"registers": 188},
    "dual_pool_backward_kernel": {"registers": 192},
    "dual_stage_kernel": {"vector_share": 0.6},
    "dual_bypass_kernel": {"vector_share": 0.0},
}
"""What the oldest Triton needs beyond the budget for sm_90."""


def with_budgets(case: Case) -> Case:
    """``case`` with what it may use."""
    if "*fp64" in case.signature.values():
        budget, spills = EXACT, OF_EXACT.get(case.kernel.__name__, 0)
        if spills:
            budget = replace(EXACT, spills=spills, reasons={**EXACT.reasons, "spills": EXACT.reasons["registers"]})
        return replace(case, budget=budget, exceptions={"gfx942": AMD})
    width = 2 if "*bf16" in case.signature.values() else 4
    budget = NARROW if case.constants["C"] * width < 16 else Budget()
    if case.kernel.__name__ == "depthwise_weights_kernel":
        budget = FEW if width == 2 else NARROW_TAPS if case.constants["C"] <= 4 else TAPS
    if case.kernel.__name__ in ("dual_bypass_kernel", "dual_bypass_backward_kernel", "dual_gather_kernel"):
        budget = SHUFFLED if case.constants["GROUPS"] > 1 else budget
    if case.kernel.__name__ == "pointwise_backward_kernel" and case.constants["WEIGHTS"] and budget != NARROW:
        budget = FILTER
    if case.kernel.__name__ == "dual_pointwise_backward_kernel" and case.constants["C"] > case.constants["B"]:
        budget = PAIRS
    exceptions = {"gfx942": AMD}
    if looser := OF_SM_80.get(case.kernel.__name__):
        reasons = {**budget.reasons, **{name: FOR_SM_90[name] for name in looser}}
        exceptions["sm_80"] = replace(budget, **looser, reasons=reasons)
    if looser := OF_SM_100.get(case.kernel.__name__):
        exceptions["sm_100"] = replace(budget, **looser, reasons={**budget.reasons, **dict.fromkeys(looser, NEWEST)})
    if is_oldest() and (looser := OF_OLDEST.get(case.kernel.__name__)):
        exceptions["sm_90"] = replace(budget, **looser, reasons={**budget.reasons, **dict.fromkeys(looser, OLDEST)})
    return replace(case, budget=budget, exceptions=exceptions)
