"""Which segments to recompute (activation checkpointing), so that a search fits a budget in the least time."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from fastnas.memory.segments import Pass
from fastnas.supernet.recompute import Word

_LEVELS = 512  # that bytes are rounded up to, of the budget


class Recomputation(NamedTuple):
    """A way to run the segments.

    Args:
        seconds: What it takes beyond a step that keeps everything.
        words: One for each segment.
    """

    seconds: float
    words: tuple[Word, ...]


class _Group(NamedTuple):
    words: tuple[Word, ...]
    seconds: float
    kept: tuple[int, ...]
    """What it leaves alive, in every pass."""
    extra: tuple[int, ...]
    """What it needs at most beyond what is alive before it, in every pass."""


def find_cheapest(
    profiles: Mapping[Word, Sequence[Pass]], seconds: Sequence[float], budget: int
) -> Recomputation | None:
    """The least time within ``budget`` bytes, or ``None`` if nothing fits: dynamic programming over the segments.

    While a segment's gradients are calculated, everything is alive that the segments before it keep, and what it needs
    itself: ``base + sum of kept(v) over v < u + extra(u) <= budget`` for every segment u of every pass, where kept and
    extra depend on the segment's word. Segments that are recomputed as one keep what the first of them is given, and
    need what they would keep one after another. What is alive after some segments is all that the others ask about
    them, so of two ways to get there with the same bytes the faster one is enough.

    Args:
        profiles: For ``none``, ``edges`` and ``cell`` what the passes of a step take if all segments have that word.
        seconds: To recompute each segment.
        budget: Bytes.
    """
    bases = [min(passes) for passes in zip(*([p.base for p in of_word] for of_word in profiles.values()), strict=True)]
    heads = [max(0, p.head - p.after[-1]) for p in profiles["none"]]
    grain = max(1, budget // _LEVELS)
    rooms = [budget - base for base in bases]
    best: dict[int, dict[tuple[int, ...], Recomputation]] = {0: {(0,) * len(bases): Recomputation(0.0, ())}}
    for position in range(len(seconds)):
        for alive, so_far in _useful(best.pop(position, {})):
            for group in _groups(profiles, seconds, position):
                if any(a + e > room for a, e, room in zip(alive, group.extra, rooms, strict=True)):
                    continue
                after = tuple(-(-(a + kept) // grain) * grain for a, kept in zip(alive, group.kept, strict=True))
                found = Recomputation(so_far.seconds + group.seconds, so_far.words + group.words)
                there = best.setdefault(position + len(group.words), {})
                there[after] = min(found, there.get(after, found), key=lambda choice: choice.seconds)
    ends = [
        end
        for alive, end in best.get(len(seconds), {}).items()
        if all(a + head <= room for a, head, room in zip(alive, heads, rooms, strict=True))
    ]
    return min(ends, key=lambda end: end.seconds, default=None)


def _useful(reached: Mapping[tuple[int, ...], Recomputation]) -> list[tuple[tuple[int, ...], Recomputation]]:
    """Those than which no other one is as fast and as small."""
    kept: list[tuple[tuple[int, ...], Recomputation]] = []
    for alive, choice in sorted(reached.items(), key=lambda pair: (pair[1].seconds, pair[0])):
        if not any(all(mine <= theirs for mine, theirs in zip(other, alive, strict=True)) for other, _ in kept):
            kept.append((alive, choice))
    return kept


def _groups(profiles: Mapping[Word, Sequence[Pass]], seconds: Sequence[float], first: int) -> Iterator[_Group]:
    """All ways to run some segments from ``first`` on that are not separable."""
    for word, passes in profiles.items():
        kept, extra = zip(*((max(0, p.kept(first)), p.extra(first)) for p in passes), strict=True)
        yield _Group((word,), 0.0 if word == "none" else seconds[first], kept, extra)
    for last in range(first + 1, len(seconds)):
        kept, extra = [], []
        for whole, single in zip(profiles["none"], profiles["cell"], strict=True):
            # in its backward pass everything is there that the segments would keep, on top of the first one's input
            needs = [whole.before(u) - whole.before(first) + whole.extra(u) for u in range(first, last + 1)]
            kept.append(max(0, single.kept(last)) + max(0, single.kept(last - 1)))  # a cell may read the last two
            extra.append(max(0, single.kept(first)) + max(needs))
        words: tuple[Word, ...] = ("cell", *("joined" for _ in range(first, last)))
        yield _Group(words, sum(seconds[first : last + 1]), tuple(kept), tuple(extra))
