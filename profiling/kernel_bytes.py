"""How many bytes do the kernels of a cell move, and how near is that to what any implementation must move?

Bytes are different bytes read and written a launch, what comes from device memory if the caches are perfect, counted
in Triton's interpreter access by access. There they depend on the number of pixels and on the number of programs that
share a filter's gradient by a straight line each, so three runs on a few pixels give those of any batch (a test checks
that to the byte). The floor has each operand of a launch once, without tables and partial sums.

Launches and saved bytes are those of the full size: Triton's are counted at their launcher, which then does nothing,
PyTorch's by a TorchDispatchMode: every operator but views, allocations and the look for NaN, which a GPU is spared, is
one launch (joining many weights may be two or three). The unfused cell runs on meta
tensors under the same mode; its bytes are arguments and results of each of its operators.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"
os.environ["FASTNAS_BACKEND"] = "triton"

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import GridExecutor

from fastnas_kernels.audit.interpreter import replaced
from fastnas_kernels.audit.meter import Meter
from fastnas_kernels.mixed_op import launch, launch_backward
from fastnas_kernels.mixed_op.cell import mixed_cell
from fastnas_kernels.mixed_op.plan import Candidate, CellPlan, EdgePlan, plan_from_text

LOOK_FOR_NAN = ("isnan", "any", "_local_scalar_dense")
CANDIDATES = (
    Candidate("max_pool"),
    Candidate("avg_pool"),
    Candidate("skip"),
    Candidate("depthwise", 3, 1, 2),
    Candidate("depthwise", 5, 1, 2),
    Candidate("depthwise", 3, 2),
    Candidate("depthwise", 5, 2),
)
NO_LAUNCH = ("detach", "_unsafe_view", "_reshape_alias", "lift_fresh", "promote_types", *LOOK_FOR_NAN)
RESULT = Path(__file__).parent / "results" / "kernel-bytes.md"


@dataclass(frozen=True)
class Case:
    """A cell at a size, and what it may at most save (MB), move (GB) and launch; empty where nobody set a limit."""

    name: str
    plan: CellPlan
    batch: int
    side: int
    saved_limit: str
    moved_limit: str = ""
    launches_limit: str = ""


def normal_cell(channels: int, k: int = 1) -> CellPlan:
    """The cell of DARTS: four nodes, each of which reads both inputs and all nodes before it."""
    edges = tuple(EdgePlan(source, target, CANDIDATES) for target in range(2, 6) for source in range(target))
    return CellPlan(channels, 2, 4, edges, k=k)


CASES = (
    Case("DARTS, C=16, 32x32, batch 64", normal_cell(16), 64, 32, "30", "4", "100"),
    Case("PC-DARTS ImageNet, C=16, K=2, 28x28, batch 128", normal_cell(16, 2), 128, 28, "45"),
)


def leaves_of(plan: CellPlan, batch: int, side: int, device: str = "cpu") -> dict[str, Any]:
    """Arguments of the cell, all of which want gradients; zeros, because only addresses count."""

    def leaf(*shape: int) -> Tensor:
        return torch.zeros(shape, device=device, requires_grad=True)

    return {
        "states": [leaf(batch, plan.channels, side, side) for _ in range(plan.num_inputs)],
        "weights": [leaf(*shape) for shapes in plan.weight_shapes.values() for shape in shapes],
        "mix": leaf(plan.num_coefficients),
        "edge_mix": leaf(len(plan.edges)) if plan.k > 1 else None,
    }


def flat(given: dict[str, Any]) -> list[Tensor]:
    """The leaves of ``given``."""
    return [
        *given["states"],
        *given["weights"],
        given["mix"],
        *([] if given["edge_mix"] is None else [given["edge_mix"]]),
    ]


def forward_backward(plan: CellPlan, given: dict[str, Any]) -> None:
    """All gradients of the fused cell."""
    nodes, _ = mixed_cell(**given, plan=plan)
    torch.autograd.grad(nodes, flat(given), torch.empty_like(nodes))


def metered(plan: CellPlan, num_tiles: int, splits: int) -> Counter[str]:
    """Bytes of each kernel, for as many pixels as fill ``num_tiles`` programs."""
    table = launch.tiles_for
    tiles = replace(table(plan.mixed_channels, torch.float32), splits=splits)
    side = int(tiles.stage.pixels**0.5)
    assert side**2 == tiles.stage.pixels, "an image must fill a program"
    launch.tiles_for = lambda *_: tiles
    try:
        with Meter() as meter:
            forward_backward(plan, leaves_of(plan, num_tiles, side))
    finally:
        launch.tiles_for = table
    return Counter({kernel: meter.of(kernel).dram_bytes for kernel in meter.kernels})


def extrapolated(plan: CellPlan, pixels: int) -> dict[str, float]:
    """Bytes of each kernel for ``pixels`` of the output and the shipped number of splits."""
    tiles = launch.tiles_for(plan.mixed_channels, torch.float32)
    base, larger, wider = metered(plan, 1, 1), metered(plan, 2, 1), metered(plan, 2, 2)
    splits, num_tiles = tiles.splits, pixels / tiles.stage.pixels
    return {
        kernel: value + (splits - 1) * (wider[kernel] - larger[kernel]) + (num_tiles - 1) * (larger[kernel] - value)
        for kernel, value in base.items()
    }


def floors(plan: CellPlan, pixels: int) -> Counter[str]:
    """Bytes of each operand once, summed over the launches of each kernel; stride 1, float32."""
    lowered, width = launch.lower(plan), 4
    plane, flags = pixels * plan.mixed_channels * width, pixels * plan.mixed_channels
    found: Counter[str] = Counter()

    def pooled(edge: EdgePlan) -> bool:
        return any(candidate.kind in ("max_pool", "avg_pool") for candidate in edge.candidates)

    def skipped(edge: EdgePlan) -> bool:
        return any(candidate.kind == "skip" for candidate in edge.candidates)

    for source, (first, middle, last) in enumerate(lowered.ranges):
        outer, inner = lowered.branches[first:middle], lowered.branches[middle:last]
        edges = [plan.edges[number] for number in plan.leaving(source)]
        is_node, pools = source >= plan.num_inputs, any(map(pooled, edges))
        n, m = len(outer), len(inner)
        targets, inner_targets = ({b.target for b in of if b.coefficient >= 0} for of in (outer, inner))
        filters = [plan.mixed_channels * (b.kernel**2 + plan.mixed_channels) * width for b in (*outer, *inner)]
        dense = sum(plan.mixed_channels**2 * width for _ in filters)
        found["stage_kernel"] += plane * ((1 + n) + 2 * m) + sum(filters)
        found["stage_kernel"] += plane * ((1 + n + len(targets)) + (2 * m + len(inner_targets))) + sum(filters)
        found["pool_statistics_kernel"] += pools * plane
        found["shared_sums_kernel"] += plane * (1 + len(edges))
        found["pointwise_backward_kernel"] += plane * (3 * m + len(inner_targets)) + sum(filters) + dense
        found["pointwise_backward_kernel"] += plane * (1 + 2 * n + len(targets) + sum(b.coefficient < 0 for b in outer))
        found["depthwise_backward_kernel"] += 3 * m * plane
        found["depthwise_weights_kernel"] += (2 * m + 1 + n) * plane + sum(filters) - dense
        found["pool_backward_kernel"] += pools * (plane * (1 + sum(map(pooled, edges)) + 2) + flags)
        found["gather_kernel"] += plane * (1 + n + sum(map(skipped, edges)) + 1 + is_node) + pools * (2 * plane + flags)
        found["bypass_backward_kernel"] += (plan.k - 1) * plane * (2 + len(edges) + is_node)
    for target in range(plan.num_inputs, plan.num_states):
        entering = [plan.edges[number] for number in plan.entering(target)]
        read = sum(pooled(edge) or skipped(edge) for edge in entering)
        found["node_kernel"] += plane * (len(lowered.entering(target)) + read + 1)
        found["bypass_kernel"] += (plan.k - 1) * plane * (len(entering) + 1)
    return +found


class Operators(TorchDispatchMode):
    """Counts operators that start a kernel, and bytes of their arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func.namespace == "fastnas":
            run: Any = launch.run_forward if "backward" not in func.name() else launch_backward.run_backward
            with self:  # its inner operators are seen as well
                return run(*args[:-1], plan_from_text(args[-1]))
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not func.is_view and "empty" not in name and name not in NO_LAUNCH:
            self.launches[name] += 1
            tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
            self.num_bytes += sum(x.untyped_storage().nbytes() for x in {id(x): x for x in tensors}.values())
        return result


@contextmanager
def launches_counted() -> Iterator[Counter[str]]:
    """Triton's launches, which do nothing."""
    found: Counter[str] = Counter()

    def call(executor: GridExecutor, *_: Any, **__: Any) -> None:
        found[executor.fn.__name__] += 1

    with replaced(GridExecutor, __call__=call):
        yield found


@contextmanager
def saved_counted(parameters: list[Tensor]) -> Iterator[dict[int, tuple[int, Tensor]]]:
    """Distinct storages that a graph keeps, without the weights, as ``{key: (bytes, tensor)}``."""
    known = {x.untyped_storage()._cdata for x in parameters}
    kept: dict[int, tuple[int, Tensor]] = {}

    def pack(x: Tensor) -> Tensor:
        if x.untyped_storage()._cdata not in known:
            kept[x.untyped_storage()._cdata] = (x.untyped_storage().nbytes(), x)
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        yield kept


def unfused(plan: CellPlan, given: dict[str, Any]) -> Tensor:
    """The cell edge by edge, as code of this family writes it, at stride 1 (not optimised in any way)."""
    states, weights = list(given["states"]), iter(given["weights"])
    steps, position = [], 0

    def norm(x: Tensor) -> Tensor:
        c = x.shape[1]
        mean, var, count = (
            torch.zeros(c, device=x.device),
            torch.ones(c, device=x.device),
            torch.zeros((), device=x.device),
        )
        count.add_(1)
        return F.batch_norm(x, mean, var, None, None, True)

    def run(x: Tensor, candidate: Candidate) -> Tensor:
        if candidate.kind == "max_pool":
            return norm(F.max_pool2d(x, 3, 1, 1))
        if candidate.kind == "avg_pool":
            return norm(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))
        if candidate.kind == "skip":
            return x
        padding = candidate.dilation * (candidate.kernel // 2)
        for _ in range(candidate.repeats):
            x = F.conv2d(x.relu(), next(weights), None, 1, padding, candidate.dilation, x.shape[1])
            x = norm(F.conv2d(x, next(weights)))
        return x

    for target in range(plan.num_inputs, plan.num_states):
        steps = []
        for number in plan.entering(target):
            edge = plan.edges[number]
            x, rest = states[edge.source].tensor_split([plan.mixed_channels], dim=1)
            outputs = [0 * x, *(run(x, candidate) for candidate in edge.candidates)]  # `none` is a candidate, too
            mix = given["mix"][position : position + len(edge.candidates)]
            position += len(edge.candidates)
            y = sum(a * o for a, o in zip([mix[0], *mix], outputs, strict=True))
            if plan.k > 1:
                n, _, h, w = x.shape
                y = torch.cat([y, rest], 1).view(n, plan.k, -1, h, w).transpose(1, 2).reshape(n, -1, h, w)
                y = given["edge_mix"][number] * y
            steps.append(y)
        states.append(torch.as_tensor(sum(steps)))
    return torch.cat(states[plan.num_inputs :], 1)


def report(case: Case) -> str:
    """The tables of one cell."""
    plan, pixels = case.plan, case.batch * case.side**2
    given = leaves_of(plan, case.batch, case.side)
    with launches_counted() as kernels, Operators() as operators, saved_counted(given["weights"]) as kept:
        forward_backward(plan, given)
    saved, ours = sum(size for size, _ in kept.values()), operators.num_bytes
    theirs = leaves_of(plan, case.batch, case.side, "meta")
    with Operators() as eager, saved_counted(theirs["weights"]) as eager_kept:
        nodes = unfused(plan, theirs)
        torch.autograd.grad(nodes, flat(theirs), torch.empty_like(nodes))
    eager_saved = sum(size for size, _ in eager_kept.values())
    moved, floor = extrapolated(plan, pixels), floors(plan, pixels)
    lines = [
        f"## {case.name}, float32",
        "",
        "| kernel | launches | MB | floor, MB | factor |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for kernel, value in sorted(moved.items(), key=lambda item: -item[1]):
        lowest = f"{floor[kernel] / 1e6:.1f} | {value / floor[kernel]:.2f}" if floor[kernel] else "partial sums only | "
        lines.append(f"| {kernel} | {kernels[kernel]} | {value / 1e6:.1f} | {lowest} |")
    total = sum(moved.values())
    rows = [
        (
            "GB moved by kernels, forward and backward",
            f"{total / 1e9:.2f}",
            f"{eager.num_bytes / 1e9:.1f}",
            case.moved_limit,
        ),
        ("GB of PyTorch's operators beside them", f"{ours / 1e9:.2f}", "", ""),
        ("launches of Triton", f"{kernels.total()}", "0", ""),
        ("launches of PyTorch", f"{operators.launches.total()}", f"{eager.launches.total()}", ""),
        (
            "launches",
            f"{kernels.total() + operators.launches.total()}",
            f"{eager.launches.total()}",
            case.launches_limit,
        ),
        ("MB saved", f"{saved / 1e6:.1f}", f"{eager_saved / 1e6:.0f}", case.saved_limit),
    ]
    lines += ["", "| forward and backward | fused | unfused | target |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", f"PyTorch's operators beside the kernels: {dict(operators.launches)}", ""]
    return "\n".join(lines)


def main(write: bool = False) -> None:
    """Print bytes, launches and saved memory of two cells against their targets.

    Args:
        write: Also put them into results/kernel-bytes.md.
    """
    torch.set_num_threads(1)
    command = "python profiling/kernel_bytes.py --write"
    header = f"# Bytes that the kernels of a cell move\n\n`{command}`, torch {torch.__version__}.\n\n{__doc__}"
    text = "\n".join([header, *map(report, CASES)])
    print(text)
    if write:
        RESULT.write_text(text)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
