"""What :func:`fastnas.accelerate` did to a network."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

Key = TypeVar("Key")


class Replaced(NamedTuple):
    """A module whose ``forward`` the engine now computes.

    Args:
        name: In the network; empty for the network itself.
        level: ``cell`` for all edges of a cell at once, ``edge`` for one mixed operation.
        what: Its shape in words.
        changes_layout: Whether its maps are channels-last now where they were contiguous.
    """

    name: str
    level: Literal["cell", "edge"]
    what: str
    changes_layout: bool = False


class Left(NamedTuple):
    """A module that has the shape of a mixed operation or cell and was left as it is.

    Args:
        name: In the network.
        reason: Why.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class AccelerationReport:
    """Which modules the engine took over, and which it did not and why.

    Args:
        replaced: In the order of the network's modules.
        left: Likewise. A cell may be here while its mixed operations are among ``replaced``.
    """

    replaced: tuple[Replaced, ...]
    left: tuple[Left, ...]

    def __str__(self) -> str:
        if not self.replaced and not self.left:
            return (
                "nothing in this network has the shape of a mixed operation, forward(x, weights), or of a cell of them"
            )
        cells = sum(module.level == "cell" for module in self.replaced)
        head = f"replaced {cells} cells and {len(self.replaced) - cells} single mixed operations, left {len(self.left)}"
        lines = [head]
        for (level, what), names in _group(((r.level, r.what), r.name) for r in self.replaced):
            lines.append(f"  {level} {_list(names)}: {what}")
        for reason, names in _group((module.reason, module.name) for module in self.left):
            lines.append(f"  left {_list(names)}: {reason}")
        if any(module.changes_layout for module in self.replaced):
            lines.append(
                "  maps leave the engine in channels-last memory: dropout of whole maps behind it draws another mask "
                "from the same seed"
            )
        if self.replaced:
            lines.append(
                "  copies are accelerated, too; a network that an architect builds anew is not: give it to "
                "fastnas.accelerate where it is built"
            )
        return "\n".join(lines)


def _group(pairs: Iterable[tuple[Key, str]]) -> Iterable[tuple[Key, list[str]]]:
    groups: dict[Key, list[str]] = {}
    for key, name in pairs:
        groups.setdefault(key, []).append(name or "the network itself")
    return groups.items()


def _list(names: list[str], shown: int = 4) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
