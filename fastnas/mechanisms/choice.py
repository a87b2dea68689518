"""Choosing an architecture at the end of a search by what the trained supernet makes of images held out.

A choice is called with the space, a :class:`Judge` and a seed, and returns a genotype. It knows no network:
that one measures and tunes.

Shape suffixes: E edges of a cell, K candidates of an edge.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastnas.errors import invalid
from fastnas.seeds import stream
from fastnas.spaces.genotype import CellGenotype, Gene, Genotype
from fastnas.spaces.sampling import random_genotype
from fastnas.spaces.space import Space

Coefficients = Mapping[str, np.ndarray]
TRIES = 50  # for one architecture, so that a small space or a tight limit ends the search for more


@dataclass(frozen=True)
class Judge:
    """What a choice may ask of the search that it ends.

    Args:
        mix: The coefficients ``[E, K]`` of every cell type that the search came to.
        measure_path: From a genotype to the loss of its path through the supernet on the images held out, in nats.
        loss_at: The same from coefficients.
        tune: Train the weights at fixed coefficients for so many epochs; the last argument is the share of all tuning
            that is over.
        accept: Whether an architecture may be chosen.
        report: Takes how many parts of the choice are done, before each of them, and their total.
    """

    mix: Coefficients
    measure_path: Callable[[Genotype], float]
    loss_at: Callable[[Coefficients], float]
    tune: Callable[[Coefficients, float, float], None]
    accept: Callable[[Genotype], bool] = field(default=lambda genotype: True)
    report: Callable[[int, int], None] = field(default=lambda done, total: None)


Choice = Callable[[Space, Judge, int], Genotype]


@dataclass(frozen=True)
class Evolution:
    """An evolutionary search among the paths of the supernet: SPOS (Guo et al., 2020, arXiv:1904.00420, section 3.4).

    The first population is random. Every further one is half crossovers of two of the best architectures so far, node
    by node, and half mutations of one of them, filled up by random ones.

    Args:
        population: Architectures of a generation (paper: 50).
        generations: How many (paper: 20).
        parents: The best architectures so far that have children (paper: 10).
        mutation: Probability of another choice at a node (paper: 0.1).
    """

    population: int = 50
    generations: int = 20
    parents: int = 10
    mutation: float = 0.1

    def __post_init__(self) -> None:
        for name in ("population", "generations", "parents"):
            if getattr(self, name) < 1:
                raise invalid("Evolution", f"{name} must be at least 1", getattr(self, name))
        if not 0 < self.mutation <= 1:
            raise invalid("Evolution", "mutation must lie in (0, 1]", self.mutation)

    def __call__(self, space: Space, judge: Judge, seed: int) -> Genotype:
        """The path of least loss that was met.

        Raises:
            ValueError: If no architecture that was drawn is accepted.
        """
        rng, losses, met = np.random.default_rng(stream(seed, "evolution")), {}, {}
        for generation in range(self.generations):
            judge.report(generation, self.generations)
            best = [met[key] for key in sorted(losses, key=losses.__getitem__)[: self.parents]]
            fresh: list[Genotype] = []
            for make, share in self._sources(space, best, rng):
                full = min(len(fresh) + share, self.population)
                for _ in range(TRIES * share):
                    if len(fresh) == full:
                        break
                    genotype = make()
                    key = genotype.canonical()
                    if key not in met and judge.accept(genotype):
                        met[key] = genotype
                        fresh.append(genotype)
            losses |= {genotype.canonical(): judge.measure_path(genotype) for genotype in fresh}
            if not losses:
                rule = "an architecture must be within the limit of the cost"
                raise invalid("Evolution", rule, f"none of {TRIES * self.population} random ones", "Raise the limit.")
            if generation and not fresh:
                break
        return met[min(losses, key=losses.__getitem__)]

    def _sources(
        self, space: Space, best: list[Genotype], rng: np.random.Generator
    ) -> Iterator[tuple[Callable[[], Genotype], int]]:
        def drawn() -> Genotype:
            return random_genotype(space, int(rng.integers(2**31)))

        def one() -> Genotype:
            return best[rng.integers(len(best))]

        if best:
            yield lambda: _cross(space, one(), one(), lambda: rng.random() < 0.5), self.population // 2
            yield lambda: _cross(space, drawn(), one(), lambda: rng.random() < self.mutation), self.population // 2
        yield drawn, self.population


def _cross(space: Space, one: Genotype, other: Genotype, takes_one: Callable[[], bool]) -> Genotype:
    """A genotype with some nodes of ``one`` and the rest of ``other``."""
    cells = []
    for name in space.cell_types:
        pairs = zip(one.cells[name].nodes, other.cells[name].nodes, strict=True)
        cells.append(CellGenotype(tuple(a if takes_one() else b for a, b in pairs), space.concat))
    child = Genotype(space.name, *cells)
    try:
        space.check(child)
    except ValueError:  # a node of one has not as many edges as that of the other
        return other
    return child


@dataclass(frozen=True)
class Perturbation:
    """Keep what the supernet misses most when it is removed: DARTS-PT (Wang et al., 2021, arXiv:2108.04392,
    algorithm 1).

    Edge by edge, in a random order: each candidate's coefficient is set to zero in turn, and the one whose absence
    raises the held-out loss most stays alone. Then node by node: edges leave whose absence raises it least. The weights
    are tuned between two decisions; alpha is held, where the published code lets that of undecided edges move on.

    Args:
        tune_epochs: Passes over the half for the weights between two decisions; the paper has 5.
    """

    tune_epochs: float = 5.0

    def __post_init__(self) -> None:
        if not self.tune_epochs >= 0:
            raise invalid("Perturbation", "tune_epochs must not be negative", self.tune_epochs)

    def __call__(self, space: Space, judge: Judge, seed: int) -> Genotype:
        """The architecture that is left."""
        rng = np.random.default_rng(stream(seed, "perturbation order"))
        mix = {name: np.array(judge.mix[name], float) for name in space.cell_types}
        left = {name: [list(range(len(space.sources(target)))) for target in space.targets] for name in mix}
        nodes = [i for i, target in enumerate(space.targets) if len(space.sources(target)) > (space.kept_edges or 99)]
        total, done = len(space.edges) + len(nodes), 0
        for row in rng.permutation(len(space.edges)):
            judge.report(done, total)
            for name in mix:
                self._decide_candidate(space, judge, mix, name, int(row))
            done += 1
            judge.tune(mix, self.tune_epochs, done / total)
        for node in rng.permutation(nodes) if nodes else ():
            judge.report(done, total)
            for name in mix:
                self._decide_edges(space, judge, mix, name, int(node), left)
            done += 1
            judge.tune(mix, self.tune_epochs, done / total)
        return Genotype(space.name, *(self._cell(space, mix[name], left[name]) for name in space.cell_types))

    def _decide_candidate(self, space: Space, judge: Judge, mix: dict[str, np.ndarray], name: str, row: int) -> None:
        derivable = space.candidates if space.kept_edges is None else space.derivable_on
        columns = [space.primitives.index(primitive) for primitive in derivable(name, row)]
        columns = [k for k in columns if mix[name][row, k] != 0] or columns  # what was removed before is never missed

        def loss_without(column: int) -> float:
            rows = mix[name].copy()
            rows[row, column] = 0
            return judge.loss_at({**mix, name: rows})

        best = max(columns, key=loss_without) if len(columns) > 1 else columns[0]
        mix[name][row] = 0
        mix[name][row, best] = 1

    def _decide_edges(
        self, space: Space, judge: Judge, mix: dict[str, np.ndarray], name: str, node: int, left: Any
    ) -> None:
        rows = space.rows(space.num_inputs + node)

        def loss_without(source: int) -> float:
            without = mix[name].copy()
            without[rows[source]] = 0
            return judge.loss_at({**mix, name: without})

        while len(left[name][node]) > (space.kept_edges or 0):
            worst = min(left[name][node], key=loss_without)
            left[name][node].remove(worst)
            mix[name][rows[worst]] = 0

    def _cell(self, space: Space, mix_EK: np.ndarray, left: list[list[int]]) -> CellGenotype:
        nodes = []
        for target, kept in zip(space.targets, left, strict=True):
            rows, sources = space.rows(target), space.sources(target)
            genes = (Gene(space.primitives[int(mix_EK[rows[i]].argmax())], sources[i]) for i in kept)
            nodes.append(tuple(genes))
        return CellGenotype(tuple(nodes), space.concat)
