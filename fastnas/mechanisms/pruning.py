"""Which candidates stay alive as a search goes on: plain tuples on the host, one row an edge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastnas_kernels.check import invalid

Alive = tuple[tuple[bool, ...], ...]
"""Whether each candidate of each edge of a cell type is alive, ``[E][K]``."""
Prune = Callable[[Sequence[Sequence[float]], Alive], Alive]
"""From coefficients ``[E][K]`` and what is alive to what stays alive: never more than before."""


def keep_best(mix: Sequence[Sequence[float]], alive: Alive, number: int) -> Alive:
    """The ``number`` largest living candidates of every edge, ties going to the lower candidate: between the stages of
    P-DARTS (Chen et al., 2019, arXiv:1904.12760, section 3.2).

    Example:
        >>> keep_best([[0.5, 0.2, 0.3]], ((True, True, True),), 2)
        ((True, False, True),)
    """

    def row(values: Sequence[float], living: Sequence[bool]) -> tuple[bool, ...]:
        candidates = [k for k, lives in enumerate(living) if lives]
        best = set(sorted(candidates, key=lambda k: -values[k])[:number])
        return tuple(k in best for k in range(len(values)))

    return tuple(row(values, living) for values, living in zip(mix, alive, strict=True))


@dataclass(frozen=True)
class BelowThreshold:
    """Remove candidates whose coefficient fell below ``share / K``, always sparing the largest of an edge: ASAP (Noy et
    al., 2019, arXiv:1904.04123, section 3.2).

    ``K`` counts the candidates that the edge began with. The coefficients are those of the living candidates, which
    sum to one.

    Args:
        share: Threshold in units of the coefficient at the start (paper: 0.4).

    Example:
        >>> BelowThreshold(share=0.4)([[0.7, 0.2, 0.1]], ((True, True, True),))
        ((True, True, False),)
    """

    share: float = 0.4

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise invalid("BelowThreshold", "share must lie in [0, 1)", self.share)

    def __call__(self, mix: Sequence[Sequence[float]], alive: Alive) -> Alive:
        def row(values: Sequence[float], living: Sequence[bool]) -> tuple[bool, ...]:
            best = max((k for k, lives in enumerate(living) if lives), key=lambda k: values[k])
            limit = self.share / len(values)
            return tuple(lives and (k == best or values[k] >= limit) for k, lives in enumerate(living))

        return tuple(row(values, living) for values, living in zip(mix, alive, strict=True))


def at_zero(mix: Sequence[Sequence[float]], alive: Alive) -> Alive:
    """Remove what is exactly zero, whole edges included: DSO-NAS (Zhang et al., 2018, arXiv:1811.01567).

    Example:
        >>> at_zero([[0.5, 0.0]], ((True, True),))
        ((True, False),)
    """
    return tuple(
        tuple(lives and value != 0 for value, lives in zip(values, living, strict=True))
        for values, living in zip(mix, alive, strict=True)
    )


@dataclass(frozen=True)
class Stage:
    """One part of a search that begins with fresh weights and logits.

    Args:
        added_cells: Cells beyond the configured depth.
        candidates: How many candidates each edge begins with; ``None`` for all.
        of_cells: The depth that ``added_cells`` is meant for: a search of fewer cells grows in proportion.

    Example:
        >>> [Stage(6, of_cells=5).deepen(cells) for cells in (1, 5, 8)]
        [2, 11, 14]
    """

    added_cells: int = 0
    candidates: int | None = None
    of_cells: int = 1

    def __post_init__(self) -> None:
        if self.added_cells < 0:
            raise invalid("Stage", "added_cells must not be negative", self.added_cells)
        if self.candidates is not None and self.candidates < 1:
            raise invalid("Stage", "candidates must be at least 1", self.candidates)
        if self.of_cells < 1:
            raise invalid("Stage", "of_cells must be at least 1", self.of_cells)

    def deepen(self, cells: int) -> int:
        """The cells of this stage in a search that begins with ``cells``."""
        return cells + round(self.added_cells * min(1.0, cells / self.of_cells))
