"""The architectures between which a selection chooses."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

from fastnas.methods.method import Method
from fastnas.seeds import stream
from fastnas.spaces.formats import parse_genotype
from fastnas.spaces.genotype import CellGenotype, Gene, Genotype
from fastnas.spaces.sampling import random_genotype
from fastnas.spaces.space import Edge, Space

EPOCHS = 8  # last epochs whose genotypes are proposed
DRAWS = 50  # for one proposal, so that proposing ends in a small space or under a tight limit
Accept = Callable[[Genotype], bool]


@dataclass(frozen=True)
class Proposal:
    """An architecture and where it comes from.

    Args:
        genotype: The architecture.
        origin: ``argmax``, ``epoch``, ``neighbour``, ``sample`` or ``uniform``.
    """

    genotype: Genotype
    origin: str


def propose(
    space: Space,
    method: Method,
    found: Genotype,
    history: Sequence[Mapping[str, Any]],
    count: int,
    seed: int,
    accept: Accept = lambda genotype: True,
) -> list[Proposal]:
    """Different architectures: the argmax, those of the last epochs, a quarter of neighbours, half of samples of
    alpha's distribution, and uniform draws.

    Args:
        space: What they belong to.
        method: Derives samples as it derives its result.
        found: The argmax.
        history: The records of the search.
        count: How many; fewer where the space or ``accept`` has no more.
        seed: Decides the draws.
        accept: Whether an architecture may be proposed; the argmax always is.
    """
    rng = np.random.default_rng(stream(seed, "proposals"))
    taken, proposals = {found.canonical()}, [Proposal(found, "argmax")]

    def add(genotypes: Iterator[Genotype], origin: str, most: int) -> None:
        for genotype in islice(genotypes, DRAWS * max(most, 1)):
            if most <= 0 or len(proposals) >= count:
                return
            if genotype.canonical() not in taken and accept(genotype):
                taken.add(genotype.canonical())
                proposals.append(Proposal(genotype, origin))
                most -= 1

    last = [parse_genotype(record["genotype"], space) for record in reversed(history[-EPOCHS:])]
    add(iter(last), "epoch", min(EPOCHS, count // 4))
    add(list_neighbours(space, found, rng), "neighbour", count // 4)
    if history:
        add(draw_samples(space, method, history[-1], rng), "sample", count // 2)
    uniform = (random_genotype(space, stream(seed, "uniform proposals", draw)) for draw in range(DRAWS * count))
    add(uniform, "uniform", count)
    return proposals


def draw_samples(
    space: Space, method: Method, record: Mapping[str, Any], rng: np.random.Generator
) -> Iterator[Genotype]:
    """Architectures that ``method`` derives from coefficients with Gumbel noise on their logarithms: on every edge each
    candidate is the best with the probability that is its coefficient (Maddison et al., 2017, arXiv:1611.00712)."""
    while True:
        noisy = {}
        for name, rows in record["mix"].items():
            mix_EK = np.abs(np.asarray(rows, float))
            with np.errstate(divide="ignore"):
                logits_EK = np.log(mix_EK) + rng.gumbel(size=mix_EK.shape)
            logits_EK -= logits_EK.max(-1, keepdims=True)
            shares_EK = np.exp(logits_EK)
            noisy[name] = (shares_EK / shares_EK.sum(-1, keepdims=True)).tolist()
        yield method.derivation(space, noisy, record["edge_mix"])


def list_neighbours(space: Space, genotype: Genotype, rng: np.random.Generator) -> Iterator[Genotype]:
    """Architectures that differ from ``genotype`` in one edge, in random order: in its primitive, or in what it reads
    where derivation chooses that, too."""
    moves = list(chain.from_iterable(_moves(space, name, cell) for name, cell in genotype.cells.items()))
    for i in rng.permutation(len(moves)):
        cell_type, node, place, gene = moves[i]
        cell = genotype.cells[cell_type]
        genes = cell.nodes[node]
        changed = (*genes[:place], gene, *genes[place + 1 :])
        moved = CellGenotype((*cell.nodes[:node], changed, *cell.nodes[node + 1 :]), cell.concat)
        yield Genotype(genotype.space, **{**genotype.cells, cell_type: moved})


def _moves(space: Space, cell_type: str, cell: CellGenotype) -> Iterator[tuple[str, int, int, Gene]]:
    whole = sum(map(len, cell.nodes)) == len(space.edges)
    allowed = space.candidates if whole else space.derivable_on
    for node, genes in enumerate(cell.nodes):
        target = space.num_inputs + node
        read = {gene.source for gene in genes}
        for place, old in enumerate(genes):
            for source in space.sources(target):
                if source != old.source and source in read:
                    continue
                for primitive in allowed(cell_type, space.row(Edge(source, target))):
                    if Gene(primitive, source) != old:
                        yield cell_type, node, place, Gene(primitive, source)


def derive_from_average(space: Space, method: Method, *histories: Sequence[Mapping[str, Any]]) -> Genotype:
    """Derive from the mean coefficients of the last half of the epochs, as far as they are of the last stage. What is
    zero in the last epoch of a search, as a candidate that was pruned, counts as zero.

    Args:
        space: What was searched.
        method: Derives as it does from the coefficients of one epoch.
        histories: The records of each search, one an epoch; all searches count equally.

    Example:
        >>> from fastnas.methods import darts
        >>> from fastnas.spaces import NASBENCH201
        >>> likely, unlikely = [0.1, 0.1, 0.1, 0.6, 0.1], [0.1, 0.1, 0.1, 0.3, 0.4]
        >>> epochs = [{"mix": {"normal": [row] * 6}, "edge_mix": {}, "stage": 0} for row in (likely, likely, unlikely)]
        >>> print(derive_from_average(NASBENCH201, darts(), epochs))
        |nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|
    """
    return method.derivation(space, _average(histories, "mix"), _average(histories, "edge_mix"))


def _average(histories: Sequence[Sequence[Mapping[str, Any]]], field: str) -> dict[str, Any]:
    means = [_average_epochs(history, field) for history in histories]
    return {name: np.mean([mean[name] for mean in means], axis=0).tolist() for name in means[0]}


def _average_epochs(history: Sequence[Mapping[str, Any]], field: str) -> dict[str, Any]:
    records = [record for record in history[len(history) // 2 :] if record["stage"] == history[-1]["stage"]]
    return {
        name: np.where(np.equal(last, 0), 0, np.mean([record[field][name] for record in records], axis=0))
        for name, last in records[-1][field].items()
    }
