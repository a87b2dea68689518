"""Selection by evaluation: score proposals on the supernet, then let the best of them train against each other.

Per-edge argmax throws away what a supernet knows of combinations. The ladder takes the argmax as one proposal of many,
lets the supernet score them all by batch statistics on held-out images, and trains the best by successive halving
(Jamieson and Talwalkar, 2016, arXiv:1502.07943): the better half of a rung goes on for twice the steps.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from fastnas.data import ImageData, class_balanced_fraction
from fastnas.engine import SearchResult
from fastnas.engine.run import search_halves
from fastnas.errors import invalid
from fastnas.files import STRICT, write_json
from fastnas.methods.method import Method
from fastnas.ranks import local_device
from fastnas.run_files import RungRecord, SelectionFile, append_record, read_file, read_records
from fastnas.selection.evaluation import HeldOut, ShortTraining
from fastnas.selection.proposals import Accept, Proposal, propose
from fastnas.spaces.formats import genotype_to_text, parse_genotype
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.space import Space
from fastnas.supernet.mix import select_path
from fastnas.tasks import SCORES
from fastnas.training.config import RetrainConfig, SearchConfig

MOST = 10**7  # of anything


@dataclass(frozen=True, kw_only=True)
class LadderConfig:
    """Selection by evaluation: many architectures are scored on the supernet, few are trained for a short while, and
    half of these go on at every rung.

    Args:
        proposals: Architectures to score on the supernet.
        entrants: Best of these to train; the argmax of the coefficients is always among them. 1 trains none.
        steps: Steps of the first rung; every further rung doubles the steps that an architecture has had. Below some
            500 a training ranks hardly better than chance.
        images: Held-out images for every score.
    """

    __pydantic_config__ = STRICT

    proposals: int = 64
    entrants: int = 8
    steps: int = 500
    images: int = 2048

    def __post_init__(self) -> None:
        for name in ("proposals", "entrants", "steps", "images"):
            value = getattr(self, name)
            if value < 1:
                raise invalid("LadderConfig", f"{name} must be at least 1", value)
            if value > MOST:
                raise invalid("LadderConfig", f"{name} must be at most {MOST}", value)

    @property
    def rungs(self) -> list[tuple[int, int]]:
        """``(architectures, steps that each has had at the end)`` of every rung, until one is left."""
        rungs, left, steps = [], self.entrants, self.steps
        while left > 1:
            rungs.append((left, steps))
            left, steps = (left + 1) // 2, 2 * steps
        return rungs

    @property
    def total_steps(self) -> int:
        """Training steps of all rungs together."""
        before, total = 0, 0
        for architectures, steps in self.rungs:
            total += architectures * (steps - before)
            before = steps
        return total


OnRung = Callable[["Rung"], None]
OnStep = Callable[[int, int], None]
DIVERGED = sys.float_info.max
"""The loss of a network that diverged: the last of every order, and a number that JSON can hold."""


@dataclass(frozen=True)
class Rung:
    """An architecture at one height of the ladder.

    Args:
        rung: 0 for the score on the supernet, then 1, 2, ... for trainings.
        genotype: The architecture, as text.
        origin: Where it comes from, see :class:`fastnas.selection.proposals.Proposal`.
        steps: Training steps of its own that it has had.
        loss: Mean cross-entropy on the held-out images, in nats; :data:`DIVERGED` where it is no number.
        accuracy: Share of them that were classified rightly, or the score of another task.
        score: The name of that score.
        seconds: What it took to train and measure.
    """

    rung: int
    genotype: str
    origin: str
    steps: int
    loss: float
    accuracy: float
    score: str = "accuracy"
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Selection:
    """What a ladder chose.

    Args:
        genotype: The winner.
        origin: Where it comes from.
        rungs: Everything that was measured.
    """

    genotype: Genotype
    origin: str
    rungs: list[Rung]


def select(
    found: SearchResult,
    space: Space,
    method: Method,
    data: ImageData,
    config: SearchConfig,
    training: RetrainConfig,
    ladder: LadderConfig = LadderConfig(),
    *,
    accept: Accept = lambda genotype: True,
    folder: Path | None = None,
    on_step: OnStep | None = None,
    on_rung: OnRung | None = None,
) -> Selection:
    """Choose an architecture by evaluation, at the end of a search.

    Args:
        found: What the search returned: its argmax, its history and its supernet.
        space: Searched.
        method: That searched.
        data: The images; those for the weights train, those for alpha score.
        config: Of the search.
        training: Size and optimiser of the networks on the rungs.
        ladder: How far to go.
        accept: Which architectures may be chosen, as by a limit of their cost.
        folder: Where to keep ``selection.jsonl`` and the networks; a selection that is in there goes on.
        on_step: Called with the training steps that are done and their total.
        on_rung: Called with every measurement.

    Returns:
        The winner of the last rung, and all that was measured.
    """
    device = local_device(config.device)
    halves = search_halves(data, config)
    proposals = propose(space, method, found.genotype, found.history, ladder.proposals, config.seed, accept)
    held_out = HeldOut(data, halves.alpha, ladder.images, config, device)
    # Those of joint inputs mark what one architecture reads, and another reads others
    edges = found.history[-1]["edge_mix"] if found.history and not method.joint_inputs else {}
    log = _Log(folder, on_rung, data.task.score_name)
    for proposal in proposals:
        mix = select_path(space, proposal.genotype, edges, device)
        log.measured(0, proposal, 0, lambda mix=mix: held_out.measure(found.supernet, mix))
    ranked = sorted(proposals, key=lambda proposal: log.loss(0, proposal))
    entrants = [proposals[0], *(p for p in ranked if p is not proposals[0])][: ladder.entrants]
    return climb(entrants, space, data, config, training, ladder, folder=folder, on_step=on_step, log=log)


def climb(
    entrants: Sequence[Proposal],
    space: Space,
    data: ImageData,
    config: SearchConfig,
    training: RetrainConfig,
    ladder: LadderConfig,
    *,
    folder: Path | None = None,
    on_step: OnStep | None = None,
    log: "_Log | None" = None,
) -> Selection:
    """Train ``entrants`` against each other, half of them at every rung, until one is left; see :func:`select`.

    Random architectures that climb with as many steps as a search took are what the search has to beat.
    """
    device, halves = local_device(config.device), search_halves(data, config)
    used = class_balanced_fraction(data.train.labels, config.train_fraction, config.seed)
    for_training = np.setdiff1d(used, halves.alpha)  # the half for the weights, or more where a search takes a part
    held_out = HeldOut(data, halves.alpha, ladder.images, config, device)
    log = _Log(folder, None, data.task.score_name) if log is None else log
    left, done = list(entrants), 0
    networks = None if folder is None else folder / "ladder"
    places = {id(p): None if networks is None else networks / f"{i}.pt" for i, p in enumerate(entrants)}
    trainings: dict[int, ShortTraining] = {}
    for rung, (count, steps) in enumerate(ladder.rungs, 1):
        left = left[:count]
        for proposal in left:

            def measure(proposal: Proposal = proposal, steps: int = steps) -> Any:
                key = id(proposal)
                if key not in trainings:
                    arguments = (data, for_training, training, config, device, space, places[key])
                    trainings[key] = ShortTraining(proposal.genotype, *arguments)
                return held_out.measure(trainings[key].train_to(steps))

            log.measured(rung, proposal, steps, measure)
            done += steps if rung == 1 else steps // 2
            if on_step is not None:
                on_step(done, ladder.total_steps)
        left.sort(key=lambda proposal: log.loss(rung, proposal))  # stable: equal ones keep the supernet's order
        for proposal in left[(count + 1) // 2 :]:
            trainings.pop(id(proposal), None)
    return Selection(left[0].genotype, left[0].origin, log.rungs)


class _Log:
    """What was measured, in memory and in a file from which a selection goes on."""

    def __init__(self, folder: Path | None, on_rung: OnRung | None, score: str) -> None:
        self.score = score
        self.path = None if folder is None else folder / "selection.jsonl"
        self.on_rung = on_rung
        before = [] if self.path is None else [Rung(**record) for record in read_records(self.path, RungRecord)]
        self.known = {(one.rung, one.steps, one.genotype): one for one in before}
        self.rungs: list[Rung] = []
        self.losses: dict[tuple[int, str], float] = {}

    def measured(self, rung: int, proposal: Proposal, steps: int, measure: Callable[[], Any]) -> None:
        text = genotype_to_text(proposal.genotype)
        one = self.known.get((rung, steps, text))
        if one is None:
            started = perf_counter()
            try:
                means = measure()
                loss, accuracy = means.loss, means.score
            except FloatingPointError:
                loss, accuracy = DIVERGED, 0.0
            seconds = perf_counter() - started
            one = Rung(rung, text, proposal.origin, steps, loss, accuracy, self.score, seconds)
            self.known[rung, steps, text] = one
            if self.path is not None:
                append_record(self.path, asdict(one))
        self.losses[rung, text] = one.loss
        self.rungs.append(one)
        if self.on_rung is not None:
            self.on_rung(one)

    def loss(self, rung: int, proposal: Proposal) -> float:
        return self.losses[rung, genotype_to_text(proposal.genotype)]


def save_selection(selection: Selection, folder: Path) -> None:
    """Write ``selection.json``: the winner and every measurement."""
    content = {
        "genotype": genotype_to_text(selection.genotype),
        "origin": selection.origin,
        "rungs": [asdict(rung) for rung in selection.rungs],
    }
    write_json(folder / "selection.json", content, checksum=True)


def summarize_selection(selection: Selection) -> list[str]:
    """What every rung held, a line each."""
    lines = []
    for rung in sorted({one.rung for one in selection.rungs}):
        here = [one for one in selection.rungs if one.rung == rung]
        best = min(here, key=lambda one: one.loss)
        what = "scored on the supernet" if rung == 0 else f"trained to {here[0].steps} steps"
        seconds = sum(one.seconds for one in here)
        lines.append(
            f"rung {rung}: {len(here)} architectures {what}, best {SCORES[best.score].show(best.accuracy)} on the "
            f"held-out images ({best.origin}), {seconds:.0f} s"
        )
    return [*lines, f"selected: {selection.origin}, {genotype_to_text(selection.genotype)}"]


def load_selection(folder: Path, space: Space) -> Selection | None:
    """The selection of a run folder, if it has one."""
    content = read_file(folder / "selection.json", SelectionFile)
    if content is None:
        return None
    rungs = [Rung(**rung) for rung in content["rungs"]]
    return Selection(parse_genotype(content["genotype"], space), content["origin"], rungs)
