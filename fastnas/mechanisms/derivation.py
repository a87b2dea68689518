"""From coefficients to a genotype."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fastnas.spaces.genotype import CellGenotype, Gene, Genotype
from fastnas.spaces.space import Edge, Space
from fastnas_kernels.check import invalid


def derive(
    space: Space,
    mix: Mapping[str, Sequence[Sequence[float]]],
    edge_mix: Mapping[str, Sequence[float]] | None = None,
) -> Genotype:
    """The architecture that the coefficients prefer.

    Where the space keeps a number of edges at a node, an edge scores the largest coefficient of its candidates
    other than ``none`` (without renormalising after ``none`` is removed), times its edge coefficient if there is
    one; the best edges are kept, each with its best candidate (Liu et al., 2019, arXiv:1806.09055, section 2.4;
    Xu et al., 2020, arXiv:1907.05737, section 3.3). Ties go to the lower edge and the lower candidate. The genes
    of a node stand in order of decreasing score. Where the space keeps all edges, each takes its best candidate,
    ``none`` included (Dong and Yang, 2020, arXiv:2001.00326).

    Args:
        space: The space of the supernet.
        mix: Coefficients ``[E, K]`` of every cell type.
        edge_mix: Edge coefficients ``[E]`` of every cell type, or ``None``.

    Example:
        >>> from fastnas.spaces.cell_space import NASBENCH201
        >>> rows = [[0.1, 0.2, 0.1, 0.5, 0.1]] * 6
        >>> print(derive(NASBENCH201, {"normal": rows}))
        |nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|
    """
    return _derive_cells(space, mix, edge_mix, space.kept_edges)


def every_edge(
    space: Space,
    mix: Mapping[str, Sequence[Sequence[float]]],
    edge_mix: Mapping[str, Sequence[float]] | None = None,
) -> Genotype:
    """The best candidate of every edge, ``none`` included, also where the space would keep a number of edges at a node:
    SNAS (Xie et al., 2019, arXiv:1812.09926, section 2.1). An edge that is best left out carries ``none``, and a node
    has as many edges as are left. Ties go to the lower candidate."""
    return _derive_cells(space, mix, edge_mix, None)


def nonzero(
    space: Space,
    mix: Mapping[str, Sequence[Sequence[float]]],
    edge_mix: Mapping[str, Sequence[float]] | None = None,
    rule: Callable[..., Genotype] = derive,
) -> Genotype:
    """:func:`derive`, with ``none`` only where all else is exactly zero: DSO-NAS (Zhang et al., 2018,
    arXiv:1811.01567), whose coefficients scale candidates and share nothing with ``none``."""
    if "none" not in space.primitives:
        return rule(space, mix, edge_mix)
    none = space.primitives.index("none")
    scaled = {name: np.array(rows, float) for name, rows in mix.items()}
    for mix_EK in scaled.values():
        mix_EK[:, none] = 0
    return rule(space, {name: mix_EK.tolist() for name, mix_EK in scaled.items()}, edge_mix)


@dataclass(frozen=True)
class AboveThreshold:
    """:func:`derive`, without the edges whose best coefficient is below ``threshold``: FairDARTS (Chu et al., 2020,
    arXiv:1911.12126, section 4.2). The best edge of a node stays in any case, and so do all in spaces without ``none``.

    Args:
        threshold: Least coefficient (published code: 0.85).
    """

    threshold: float = 0.85

    def __call__(
        self,
        space: Space,
        mix: Mapping[str, Sequence[Sequence[float]]],
        edge_mix: Mapping[str, Sequence[float]] | None = None,
        rule: Callable[..., Genotype] = derive,
    ) -> Genotype:
        found = rule(space, mix, edge_mix)
        if "none" not in space.primitives or space.kept_edges is None:
            return found
        cells = {name: self._kept(space, cell, mix[name]) for name, cell in found.cells.items()}
        whole = {name: sum(map(len, cell)) for name, cell in cells.items()}
        if all(whole[name] == sum(map(len, cell.nodes)) for name, cell in found.cells.items()):
            return found
        return Genotype(space.name, *(self._every_edge(space, cells[name], found) for name in space.cell_types))

    def _kept(self, space: Space, cell: CellGenotype, mix_EK: Sequence[Sequence[float]]) -> list[list[Gene]]:
        def coefficient(node: int, gene: Gene) -> float:
            row = space.row(Edge(gene.source, space.num_inputs + node))
            return mix_EK[row][space.primitives.index(gene.primitive)]

        return [
            [gene for place, gene in enumerate(genes) if place == 0 or coefficient(node, gene) >= self.threshold]
            for node, genes in enumerate(cell.nodes)
        ]

    def _every_edge(self, space: Space, kept: list[list[Gene]], found: Genotype) -> CellGenotype:
        nodes = []
        for target, genes in zip(space.targets, kept, strict=True):
            of_source = {gene.source: gene for gene in genes}
            nodes.append(tuple(of_source.get(source, Gene("none", source)) for source in space.sources(target)))
        return CellGenotype(tuple(nodes), found.normal.concat)


def _derive_cells(
    space: Space,
    mix: Mapping[str, Sequence[Sequence[float]]],
    edge_mix: Mapping[str, Sequence[float]] | None,
    keep: int | None,
) -> Genotype:
    cells = (_cell(space, t, np.asarray(mix[t], float), (edge_mix or {}).get(t), keep) for t in space.cell_types)
    return Genotype(space.name, *cells)


def _cell(
    space: Space, cell_type: str, mix_EK: np.ndarray, edge_mix_E: Sequence[float] | None, keep: int | None
) -> CellGenotype:
    expected = (len(space.edges), len(space.primitives))
    if mix_EK.shape != expected:
        raise invalid("derive", f"mix must have shape {list(expected)}", list(mix_EK.shape))
    if not np.isfinite(mix_EK).all():
        raise invalid("derive", "mix must be finite", "a NaN or an infinity")
    score_EK = mix_EK
    if edge_mix_E is not None:
        edge_E = np.asarray(edge_mix_E, float)
        if edge_E.shape != expected[:1]:
            raise invalid("derive", f"edge_mix must have shape [{expected[0]}]", list(edge_E.shape))
        if not np.isfinite(edge_E).all():
            raise invalid("derive", "edge_mix must be finite", "a NaN or an infinity")
        score_EK = mix_EK * edge_E[:, None]
    derivable = space.candidates if keep is None else space.derivable_on
    rows = range(len(space.edges))
    allowed = [[space.primitives.index(primitive) for primitive in derivable(cell_type, row)] for row in rows]
    nodes = []
    for target in space.targets:
        row_from = {source: space.row(Edge(source, target)) for source in space.sources(target)}
        kept = list(row_from)
        if keep is not None:
            best_score = {source: score_EK[row, allowed[row]].max() for source, row in row_from.items()}
            # sorted() is stable, so equal scores keep the order of the edges
            kept = sorted(kept, key=lambda source, scores=best_score: -scores[source])[:keep]
        of_kept = [(row_from[source], allowed[row_from[source]]) for source in kept]
        best = [columns[int(mix_EK[row, columns].argmax())] for row, columns in of_kept]
        nodes.append(tuple(Gene(space.primitives[k], source) for k, source in zip(best, kept, strict=True)))
    return CellGenotype(tuple(nodes), space.concat)


@dataclass(frozen=True)
class SkipCap:
    """:func:`derive`, with at most ``limit`` skip connections in the normal cell: P-DARTS (Chen et al., 2019,
    arXiv:1904.12760, section 3.4).

    While there are more, the smallest coefficient of a derived skip connection is set to zero and the cell derived
    anew. The reduction cell keeps what it has. A space without skip connections has nothing to cap.

    Args:
        limit: Most skip connections (paper: 2).
    """

    limit: int = 2

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise invalid("SkipCap", "limit must not be negative", self.limit)

    def __call__(
        self,
        space: Space,
        mix: Mapping[str, Sequence[Sequence[float]]],
        edge_mix: Mapping[str, Sequence[float]] | None = None,
        rule: Callable[..., Genotype] = derive,
    ) -> Genotype:
        if "skip_connect" not in space.primitives:
            return rule(space, mix, edge_mix)
        skip = space.primitives.index("skip_connect")
        normal_EK = np.array(mix["normal"], float)
        while True:
            genotype = rule(space, {**mix, "normal": normal_EK.tolist()}, edge_mix)
            rows = [
                space.rows(space.num_inputs + node)[gene.source]
                for node, genes in enumerate(genotype.normal.nodes)
                for gene in genes
                if gene.primitive == "skip_connect"
                and normal_EK[space.rows(space.num_inputs + node)[gene.source], skip] > 0
            ]
            if len(rows) <= self.limit:
                return genotype
            normal_EK[min(rows, key=lambda row: normal_EK[row, skip]), skip] = 0
