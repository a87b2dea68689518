"""What do exact second derivatives cost, how good are differences in their place, and who else computes them?

1. Products of the Hessian with vectors in the weights, in alpha and mixed, next to gradients: seconds (medians of
   interleaved runs), and bytes held at most.
2. The second-order step of alpha next to that of the original DARTS architect, whose folder `--checkout` names.
3. The product next to that of curvlinops-for-pytorch, if it is installed.
4. Central differences of several step lengths next to the exact gradient of alpha, early in a search and later.
"""

import importlib
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from fastnas.bilevel.hypergradient import UnrolledByDifferences, first_order, unrolled
from fastnas.bilevel.named import norm
from fastnas.bilevel.operator import HessianOperator
from fastnas.bilevel.problem import Bilevel, Tensors, detach_all
from fastnas.bilevel.products import central_difference, forward_over_reverse, make_product, reverse_over_reverse
from fastnas.data import Batch, evaluation_batches, load_data
from fastnas.engine import Run, alpha_problem, build_stage, make_state, relax, search_step
from fastnas.methods.library import darts
from fastnas.spaces.registry import space_by_name
from fastnas.supernet.architecture import draw_logits
from fastnas.supernet.supernets import build_supernet
from fastnas.training.config import SearchConfig
from measuring.device import clock_of, medians
from measuring.writing import Section, provenance, write

CPU = torch.device("cpu")
RADII = tuple(10.0**e for e in range(-5, 2))
COLOURS = ("#D55E00", "#0072B2", "#009E73")


@dataclass(frozen=True, kw_only=True)
class SecondOrder:
    """What to measure.

    Args:
        checkout: Folder of the original DARTS code, whose modules are imported by their bare names.
        channels: Channels of the first cells.
        cells: Depth.
        batch_size: Images.
        resolution: Side of the images in pixels.
        steps: Steps of training before the second curve of differences.
        runs: Timed runs of each contender.
        threads: Of the CPU.
        out: Folder of the page.
    """

    checkout: Path | None = None
    channels: int = 8
    cells: int = 4
    batch_size: int = 16
    resolution: int = 16
    steps: int = 20
    runs: int = 5
    threads: int = 1
    out: Path = Path(__file__).parent / "results"


def main(settings: SecondOrder) -> None:
    """Measure, print, write."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    sections = [products(settings), steps_of_alpha(settings), others(settings), differences(settings)]
    name = {"name": "second order, CPU", "threads": str(settings.threads), "size": size_of(settings)}
    page = write(settings.out, provenance(name), sections, {"sections": [list(s.records) for s in sections]})
    page.rename(page.with_name("second-order-cpu.md"))
    page.with_suffix(".json").rename(page.with_name("second-order-cpu.json"))
    print(*sections, sep="\n")


def size_of(settings: SecondOrder) -> str:
    """The supernet in words."""
    side = settings.resolution
    return f"DARTS, C = {settings.channels}, {settings.cells} cells, {settings.batch_size} images of {side}x{side}"


@dataclass(frozen=True)
class Subject:
    """A loss of weights and logits together."""

    network: nn.Module
    at: dict[str, Tensor]
    w: tuple[str, ...]
    alpha: tuple[str, ...]
    images: Tensor
    labels: Tensor

    def loss(self, at: Tensors) -> Tensor:
        """Mean cross-entropy, nats."""
        w, alpha = ({name: at[name] for name in names} for names in (self.w, self.alpha))
        mix = relax(darts(), space_by_name("darts"), alpha)
        return F.cross_entropy(functional_call(self.network, w, (self.images, mix)), self.labels)

    def gradient(self, of: tuple[str, ...]) -> Callable[[], tuple[Tensor, ...]]:
        """Of the loss, for the names ``of`` alone."""

        def run() -> tuple[Tensor, ...]:
            point = {name: x.detach().requires_grad_(name in of) for name, x in self.at.items()}
            return torch.autograd.grad(self.loss(point), [point[name] for name in of])

        return run


def subject(settings: SecondOrder) -> Subject:
    """A supernet that has seen nothing, and random images."""
    network = build_supernet(space_by_name("darts"), 10, settings.channels, settings.cells, 1, 3, False)
    w, alpha = dict(network.named_parameters()), draw_logits(space_by_name("darts"), False, 0, CPU)
    images = torch.randn(settings.batch_size, 3, settings.resolution, settings.resolution)
    labels = torch.randint(10, (settings.batch_size,))
    return Subject(network, detach_all({**w, **alpha}), tuple(w), tuple(alpha), images, labels)


def products(settings: SecondOrder) -> Section:
    """Each product in its ways, next to the gradients."""
    given = subject(settings)
    v = {name: torch.randn_like(x) for name, x in given.at.items()}
    contenders: dict[str, Callable[[], Any]] = {
        "gradient for w": given.gradient(given.w),
        "gradient for alpha": given.gradient(given.alpha),
    }
    found: dict[str, list[Tensor]] = {}
    for what, along, of in (("w, w", given.w, given.w), ("alpha, alpha", given.alpha, given.alpha),
                            ("alpha, w", given.w, given.alpha)):  # fmt: skip
        direction = {name: v[name] for name in along}
        ways = {
            "forward over reverse": lambda d=direction, of=of: forward_over_reverse(given.loss, given.at, d, of),
            "reverse over reverse": lambda d=direction, of=of: reverse_over_reverse(given.loss, given.at, d, of),
        }
        kept = make_product(given.loss, given.at, along, of)
        ways["one more from a kept graph"] = lambda d=direction, kept=kept: kept(d)
        ways["two gradients at a distance"] = lambda d=direction, of=of: central_difference(
            given.loss, given.at, d, of, radius=0.01
        )
        found[what] = [torch.cat([x.flatten() for x in ways[way]().values()]) for way in list(ways)[:3]]
        contenders |= {f"{what}: {way}": run for way, run in ways.items()}
    errors = {w: max(float((x - xs[0]).norm() / xs[0].norm()) for x in xs[1:]) for w, xs in found.items()}
    held = {name: peak_bytes(run) for name, run in contenders.items()}
    seconds = medians(clock_of(CPU), contenders, settings.runs)
    records, of_w, of_alpha = [], "gradient for w", "gradient for alpha"
    for name in contenders:
        base = of_alpha if name.startswith(("alpha, alpha", of_alpha)) else of_w
        half = 0.5 if name.endswith("distance") else 1.0  # it takes two more for its estimate of the error
        records.append(
            {"what": name, "seconds": half * seconds[name], "ratio": half * seconds[name] / seconds[base],
             "bytes": held[name], "byte ratio": held[name] / held[base]}
        )  # fmt: skip
    notes = (
        "Ratios of the rows in alpha are to the gradient for alpha, of all others to that for w. Bytes are the most "
        "that the allocator had handed out at once; those of a kept graph are held before, and not counted. "
        "A difference is timed as two gradients, half of the four that it takes with its estimate of the error.",
        "Largest relative difference between the exact ways, float32: "
        + ", ".join(f"{what} {error:.0e}" for what, error in errors.items()) + ".",
    )  # fmt: skip
    return Section("What does a product cost?", *table(records), notes, records)


def steps_of_alpha(settings: SecondOrder) -> Section:
    """One step of alpha of second order, ours and the architect's."""
    given = subject(settings)
    run, batches = prepared(settings, given.network, given.images, given.labels)
    problem = alpha_problem(run, *batches)
    ours = {"exact": unrolled, "by differences": UnrolledByDifferences(), "first order": first_order}
    contenders: dict[str, Callable[[], Any]] = {
        f"fastnas, {name}": lambda h=h: h(problem, run.state.w, run.state.alpha) for name, h in ours.items()
    }
    notes = ["Seconds of the hypergradient; the architect's contain the step of Adam on alpha, which is small."]
    if settings.checkout is None:
        notes.append("Without --checkout there is nobody to compare with.")
    else:
        contenders = {"the original architect": architect(settings, batches)} | contenders
    seconds = medians(clock_of(CPU), contenders, settings.runs)
    base = seconds[next(iter(contenders))]
    records = [{"what": name, "seconds": s, "ratio": s / base} for name, s in seconds.items()]
    return Section("What does a second-order step of alpha cost?", *table(records), tuple(notes), records)


def architect(settings: SecondOrder, batches: tuple[Batch, Batch]) -> Callable[[], object]:
    """The step of the original code, unmodified but for ``.cuda()``, which does nothing here."""
    sys.path.insert(0, str(settings.checkout))
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    nn.Module.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    network = importlib.import_module("model_search").Network(settings.channels, 10, settings.cells, F.cross_entropy)
    arguments = Namespace(momentum=0.9, weight_decay=3e-4, arch_learning_rate=3e-4, arch_weight_decay=1e-3)
    of_code = importlib.import_module("architect").Architect(network, arguments)
    optimizer = torch.optim.SGD(network.parameters(), 0.025, momentum=0.9, weight_decay=3e-4)
    (x, y), (vx, vy) = ((b.images, b.labels) for b in batches)
    return lambda: of_code.step(x, y, vx, vy, 0.025, optimizer, True)


def prepared(settings: SecondOrder, network: nn.Module, *tensors: Tensor) -> tuple[Run, tuple[Batch, Batch]]:
    """A run about to make a step on the same images in both halves."""
    config = SearchConfig(channels=settings.channels, cells=settings.cells, device="cpu", warmup_epochs=0)
    state = make_state(network, darts(), config, CPU)
    run = Run(darts(), load_data("digits"), config, CPU, (np.arange(1), np.arange(1)), 10**6, state)
    return run, (Batch(*tensors), Batch(*tensors))


def others(settings: SecondOrder) -> Section:
    """The product in the weights next to that of curvlinops."""
    title = "How does curvlinops compare?"
    try:
        import curvlinops  # noqa: PLC0415
    except ImportError:
        return Section(title, notes=("curvlinops-for-pytorch is not installed.",))
    network = plain(settings.channels)
    images = torch.randn(settings.batch_size, 3, settings.resolution, settings.resolution)
    labels, criterion = torch.randint(10, (settings.batch_size,)), nn.CrossEntropyLoss()
    params = dict(network.named_parameters())
    ours = HessianOperator(lambda w: criterion(functional_call(network, dict(w), (images,)), labels), params)
    theirs = curvlinops.HessianLinearOperator(
        network, criterion, list(params.values()), [(images, labels)], check_deterministic=False
    )
    v = torch.randn(ours.shape[0])
    error = float((ours @ v - theirs @ v).norm() / (ours @ v).norm())
    reverse = HessianOperator(ours.loss, params, reverse_over_reverse)
    contenders = {
        "curvlinops": lambda: theirs @ v,
        "fastnas, forward over reverse": lambda: ours @ v,
        "fastnas, reverse over reverse": lambda: reverse @ v,
    }
    seconds = medians(clock_of(CPU), contenders, settings.runs)
    records = [{"what": n, "seconds": s, "ratio": s / seconds["curvlinops"]} for n, s in seconds.items()]
    notes = (
        "On seven convolutions with ReLU of PyTorch's own, through which both can go: "
        "curvlinops maps over vectors with torch.func, which no fused operation of a supernet knows.",
        f"Relative difference of the products, float32: {error:.0e}.",
    )
    return Section(title, *table(records), notes, records)


def plain(channels: int) -> nn.Module:
    """A network of PyTorch's own modules."""
    blocks: list[nn.Module] = [nn.Conv2d(3, 4 * channels, 3, padding=1)]
    for _ in range(6):
        convolution = nn.Conv2d(4 * channels, 4 * channels, 3, padding=1)
        blocks += [nn.ReLU(), convolution]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * channels, 10))


def differences(settings: SecondOrder) -> Section:
    """Error of the mixed product by differences against its step, in float32, before and after some training."""
    data = load_data("digits")
    config = SearchConfig(channels=settings.channels, cells=3, device="cpu", warmup_epochs=0, weight_lr=0.025)
    state = make_state(build_stage(space_by_name("darts"), darts(), data, config, 0), darts(), config, CPU)
    order = np.random.default_rng(0).permutation(len(data.train.labels))
    run = Run(darts(), data, config, CPU, (order, order), 10**6, state)
    batches = list(evaluation_batches(data, data.train, order, batch_size=32))[:16]
    records = []
    for trained in (0, settings.steps):
        for step in range(trained):
            search_step(run, batches[step % 8], batches[8 + step % 8])
        problem, names = alpha_problem(run, batches[0], batches[-1]), tuple(state.alpha)

        def loss(at: Tensors, problem: Bilevel = problem) -> Tensor:
            w, alpha = ({n: at[n] for n in part} for part in (state.w, state.alpha))
            return problem.inner(w, alpha, 0)

        at = detach_all({**state.w, **state.alpha})
        leaves = {name: p.detach().requires_grad_() for name, p in state.w.items()}
        outer = problem.outer(leaves, detach_all(state.alpha), 0)
        v = dict(zip(leaves, torch.autograd.grad(outer, list(leaves.values())), strict=True))
        records += curve(f"supernet of DARTS, after {trained} steps of training", loss, at, v, names)
    network, images, labels = smooth(settings.channels), torch.randn(32, 3, 8, 8), torch.randint(10, (32,))
    at = detach_all(dict(network.named_parameters()))
    v = {name: torch.randn_like(x) for name, x in at.items()}
    records += curve(
        "GELU in place of ReLU, no maximum",
        lambda w: F.cross_entropy(functional_call(network, dict(w), (images,)), labels),
        at,
        v,
        tuple(at),
    )
    picture = "second-order-differences.png"
    draw(records, settings.out / picture)
    names = tuple(dict.fromkeys(record["what"] for record in records))
    rows = [[f"{radius:.0e}", *(f"{r['error']:.1e}" for r in records if r["radius"] == radius)] for radius in RADII]
    notes = (
        f"![]({picture})",
        "Relative error of the product by a central difference, float32. In the supernet it is the mixed one along the "
        "gradient of the outer loss, as DARTS needs it; the radius of DARTS is 1e-02. Where the ends of a step lie "
        "beyond corners of ReLU or of a maximum, no radius helps.",
    )
    return Section("How good are differences?", ("radius", *names), rows, notes, records)


def curve(
    what: str, loss: Callable[[Tensors], Tensor], at: Tensors, v: Tensors, of: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Errors of differences of every radius, and what they say of themselves."""
    exact = forward_over_reverse(loss, at, v, of)
    records = []
    for radius in RADII:
        found = central_difference(loss, at, v, of, radius=radius)
        error = norm({name: found.product[name] - exact[name] for name in of}) / norm(exact)
        records.append({"what": what, "radius": radius, "error": error, "estimate": found.error / norm(exact)})
    return records


def smooth(channels: int) -> nn.Module:
    """A network whose every operation is smooth."""
    blocks: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1)]
    for _ in range(3):
        convolution = nn.Conv2d(channels, channels, 3, padding=1)
        blocks += [nn.BatchNorm2d(channels, track_running_stats=False), nn.GELU(), convolution]
    return nn.Sequential(*blocks, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(channels, 10))


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """Error against radius, and the estimate of it dashed."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for colour, what in zip(COLOURS, dict.fromkeys(r["what"] for r in records), strict=False):
        mine = [r for r in records if r["what"] == what]
        radii = [r["radius"] for r in mine]
        axis.loglog(radii, [r["error"] for r in mine], ".-", color=colour, label=what)
        axis.loglog(radii, [r["estimate"] for r in mine], "--", color=colour, linewidth=0.9)
    axis.axvline(0.01, color="#8A8F94", linewidth=0.9, label="radius of DARTS")
    axis.axhline(1e-3, color="#C4C8CC", linewidth=0.9)
    axis.set_xlabel("length of the step to either side")
    axis.set_ylabel("relative error of the product")
    axis.set_title("error of a central difference, float32 (dashed: its own estimate)", fontsize=10)
    axis.grid(color="#E8EAED", linewidth=0.6)
    axis.legend(fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def table(records: list[dict[str, Any]]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Milliseconds and megabytes of what was measured, and their ratios."""
    with_bytes = "bytes" in records[0]
    rows = []
    for r in records:
        row = [r["what"], f"{1e3 * r['seconds']:.0f}", f"{r['ratio']:.2f}"]
        rows.append([*row, f"{r['bytes'] / 1e6:.1f}", f"{r['byte ratio']:.2f}"] if with_bytes else row)
    return ("what", "ms", "ratio", *(("MB", "ratio") if with_bytes else ())), rows


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that the allocator of the CPU had handed out at once since ``run`` began."""
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    changes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return max(accumulate(changes))


if __name__ == "__main__":
    main(tyro.cli(SecondOrder, description=__doc__))
