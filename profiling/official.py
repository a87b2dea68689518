"""Does a search step make the weights and the logits that the official code makes of them?

Runs whole steps of the published search beside the library's, from the same weights, logits, batches and draws, in
float64: the architecture's step, the gradient of the weights, clipping, and both optimisers. Prints how far weights and
logits are apart after every step. Give the folder of an official checkout; ``measuring/published.py`` and
``measuring/published_paths.py`` say of which.
Its modules are imported and run; nothing of it is part of this repository.

``--method eigenvalue_rule`` asks instead when the tracker of RobustDARTS stops, on the traces of its repository that
the tests hold, and ``--method retraining`` compares steps of the evaluation network of quark0/darts.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from fastnas.data import Batch, load_data
from fastnas.engine import Run, build_stage, make_state, search_step
from fastnas.engine.coefficients import relax
from fastnas.engine.record import derive
from fastnas.mechanisms.control import eigenvalue_rule_of_the_code
from fastnas.training.config import SearchConfig
from fastnas_kernels.check import invalid
from measuring.foreign import foreign_module
from measuring.published import Published, Size, darts, darts_minus, fair_darts, p_darts, robust_darts, smooth_darts
from measuring.published_paths import beta_darts, nasbench201, nasp, proxyless_nas
from measuring.published_retraining import retraining

CPU = torch.device("cpu")
PUBLISHED: Mapping[str, Callable[[Path, Size], Published]] = {
    "darts": darts,
    "darts_2nd": partial(darts, name="darts_2nd"),
    "pc_darts": partial(darts, name="pc_darts"),
    "robust_darts": robust_darts,
    "robust_darts_l2": partial(robust_darts, name="robust_darts_l2"),
    "robust_darts_dp": partial(robust_darts, name="robust_darts_dp"),
    "smooth_darts_rs": smooth_darts,
    "smooth_darts_adv": partial(smooth_darts, name="smooth_darts_adv"),
    "p_darts": p_darts,
    "nasp": nasp,
    "darts_nasbench201": partial(nasbench201, name="darts_nasbench201"),
    "gdas_nasbench201": nasbench201,
    "proxyless_nas": proxyless_nas,
    "proxyless_nas_all_gates": partial(proxyless_nas, name="proxyless_nas_all_gates"),
    "fair_darts": fair_darts,
    "beta_darts": beta_darts,
    "darts_minus": darts_minus,
}
"""By the names that the command line knows."""
RULE, RETRAINING = "eigenvalue_rule", "retraining"
TRACES = Path(__file__).parents[1] / "tests" / "mechanisms" / "eigenvalue_traces.json"


@dataclass(frozen=True, kw_only=True)
class Official:
    """What to compare.

    Args:
        checkout: Folder of the official code.
        method: Which search, one of ``PUBLISHED``, or eigenvalue_rule, or retraining.
        channels: Channels of the first cells.
        cells: Cells; of a chain, blocks in a stage; of NAS-Bench-201, cells in a stage.
        batch_size: Images a step, of each half.
        steps: Steps of the search.
        seed: Of the draws.
        tolerance: Largest relative difference that counts as equal.
    """

    checkout: Path
    method: str = "darts"
    channels: int = 8
    cells: int = 3
    batch_size: int = 4
    steps: int = 3
    seed: int = 0
    tolerance: float = 1e-7


def compare(settings: Official) -> tuple[list[tuple[float, float]], int | None]:
    """Relative differences of weights and of logits after each step, and how many of 100 genotypes are the same."""
    if settings.method not in PUBLISHED:
        raise invalid("official", f"method must be one of {', '.join((*PUBLISHED, RULE, RETRAINING))}", settings.method)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    theirs = PUBLISHED[settings.method](settings.checkout, Size(settings.channels, settings.cells))
    ours, weights = _library(settings, theirs)
    generator, found = torch.Generator().manual_seed(1), []
    for _ in range(settings.steps):
        images = torch.rand(2, settings.batch_size, 3, 32, 32, generator=generator)
        labels = torch.randint(10, (2, settings.batch_size), generator=generator)
        theirs.step(ours, images, labels)
        search_step(ours, Batch(images[0], labels[0]), Batch(images[1], labels[1]))
        of_weights = _difference(weights, theirs.weights)
        found.append((of_weights, _difference(_living(ours), [a.flatten() for a in theirs.logits])))
    return found, None if theirs.genotype is None else _derive_alike(ours, theirs)


def _library(settings: Official, theirs: Published) -> tuple[Run, list[Tensor]]:
    """A search from the same weights and logits, and those of its weights that the official network has."""
    data = replace(load_data("digits"), channels=3, resolution=(32, 32))
    numbers: dict[str, Any] = {"channels": settings.channels, "batch_size": settings.batch_size, "seed": settings.seed}
    numbers |= {"cells": settings.cells, "epochs": 50, "weight_lr": 0.025, "alpha_lr": 3e-4, "device": "cpu"}
    config = SearchConfig(**{**numbers, **theirs.settings})
    supernet = build_stage(theirs.space, theirs.method, data, config, 0)
    state = make_state(supernet, theirs.method, config, CPU)
    state.alive |= theirs.alive
    run = Run(theirs.method, data, config, CPU, (np.arange(2), np.arange(2)), settings.steps + 1, state)
    state.step = theirs.epoch * run.steps
    weights = [p for name, p in state.w.items() if not theirs.alive or _is_alive(run, name)]
    shapes = [[tuple(p.shape) for p in network] for network in (weights, theirs.weights)]
    if shapes[0] != shapes[1]:
        raise invalid("official", "both networks must have the same weights in the same order", "others")
    with torch.no_grad():
        for own, other in zip(weights, theirs.weights, strict=True):
            own.copy_(other)
    _copy_logits(run, theirs)
    return run, weights


def _copy_logits(run: Run, theirs: Published) -> None:
    flat = torch.cat([a.detach().flatten() for a in theirs.logits]).split([len(x) for x in _living(run)])
    with torch.no_grad():
        for (name, a), values in zip(run.state.alpha.items(), flat, strict=True):
            a[_mask(run, name)] = values


def _derive_alike(run: Run, theirs: Published, count: int = 100) -> int:
    """In how many of ``count`` cases both derive the same genotype of random logits."""
    alike = 0
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for a in theirs.logits:
                a.copy_(torch.randn(a.shape, generator=generator))
        _copy_logits(run, theirs)
        mix = relax(run.method, run.space, run.state.alpha, run.state.alive)
        found = derive(run, mix).cells
        genes = {name: [tuple(gene) for node in cell.nodes for gene in node] for name, cell in found.items()}
        assert theirs.genotype is not None
        alike += genes == {name: [tuple(gene) for gene in cell] for name, cell in theirs.genotype().items()}
    return alike


def _is_alive(run: Run, weight: str) -> bool:
    """Whether the candidate that a weight belongs to, if it belongs to one, is alive."""
    parts = weight.split(".")
    if "edges" not in parts:
        return True
    row, primitive = parts[parts.index("edges") + 1 :][:2]
    cell = parts[parts.index("cells") + 1]
    kind = next(n for n in run.space.cell_types if int(cell) in run.state.supernet.places(n))  # type: ignore[operator]
    return run.state.alive[kind][int(row)][run.space.primitives.index(primitive)]


def _mask(run: Run, name: str) -> Tensor:
    kind, cell_type = name.split(".", 1)
    alive = torch.tensor(run.state.alive[cell_type])
    return alive if kind == "alpha" else torch.ones(len(alive), dtype=torch.bool)


def _living(run: Run) -> list[Tensor]:
    return [a.detach()[_mask(run, name)] for name, a in run.state.alpha.items()]


def _difference(ours: Any, theirs: Any) -> float:
    one, other = (torch.cat([x.detach().flatten() for x in tensors]) for tensors in (ours, theirs))
    return float((one - other).norm() / other.norm())


def compare_rule(checkout: Path) -> tuple[int, int]:
    """How many of the published traces stop, and in how many of all both rules say the same in every epoch."""
    tracker: Any = foreign_module(checkout, "src.utils", CPU)
    stopped = agreed = 0
    for trace in json.loads(TRACES.read_text(encoding="utf-8")).values():
        theirs, rule, ours = tracker.EVLocalAvg(5, 2, 50), eigenvalue_rule_of_the_code(), None
        for count, (epoch, value) in enumerate(trace, 1):
            theirs.update(epoch, value, None)
            if epoch != 49:
                theirs.early_stop(epoch, 1.3, 10, 4)
                ours = rule([tuple(pair) for pair in trace[:count]])
            if theirs.stop_search or ours is not None:
                break
        agreed += (theirs.stop_epoch if theirs.stop_search else None) == ours
        stopped += theirs.stop_search
    return stopped, agreed


def require_agreement(differences: list[float], tolerance: float) -> None:
    """Refuse differences above the tolerance, and numbers that are none."""
    worst = float(np.max(differences))  # NaN if one of them is, which ``max`` passes over
    if not worst <= tolerance:
        raise invalid("official", f"they must agree to {tolerance:g}", f"{worst:.1e}")


def main(settings: Official) -> None:
    """Compare, print, and fail where they differ."""
    if settings.method == RULE:
        count = len(json.loads(TRACES.read_text(encoding="utf-8")))
        stopped, agreed = compare_rule(settings.checkout)
        print(f"{stopped} of {count} traces stop by the published tracker; the library agrees in {agreed}")
        if agreed != count:
            raise invalid("official", "both must stop in the same epochs", f"{count - agreed} differ")
        return
    if settings.method == RETRAINING:
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(0)
        apart = retraining(settings.checkout, Size(settings.channels, settings.cells), settings.steps)
        print(*(f"retraining, step {step}: weights differ by {x:.1e}" for step, x in enumerate(apart, 1)), sep="\n")
        require_agreement(apart, settings.tolerance)
        return
    found, alike = compare(settings)
    for step, (weights, logits) in enumerate(found, 1):
        print(f"{settings.method}, step {step}: weights differ by {weights:.1e}, logits by {logits:.1e}")
    if alike is not None:
        print(f"{settings.method}: the same genotype from {alike} of 100 draws of the logits")
        if alike != 100:
            raise invalid("official", "both must derive the same genotypes", f"{100 - alike} differ")
    require_agreement([x for pair in found for x in pair], settings.tolerance)


if __name__ == "__main__":
    main(tyro.cli(Official))
