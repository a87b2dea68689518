"""Which parts of a supernet are recomputed in the backward pass, instead of keeping what they computed.

A supernet is a row of units: its stem, then its cells or blocks. Each has a word:

- ``none``: all that the gradients need is kept.
- ``edges``: the candidates of one edge after another are recomputed, so that those of one edge at most are alive
  at a time; with candidates that the kernels do not know, each by itself. A stem has no edges and counts as a cell.
- ``cell``: the unit is recomputed as a whole; its input is kept.
- ``joined``: as one with the unit before it, whose input alone is kept (Chen et al., 2016, arXiv:1604.06174).

No word changes a bit of any gradient, sample or mask.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from torch.func import functional_call

from fastnas_kernels.check import invalid
from fastnas_kernels.checkpoint import checkpointed

Word = Literal["none", "edges", "cell", "joined"]
WORDS: tuple[Word, ...] = ("none", "edges", "cell", "joined")
State = tuple[Tensor, ...]


class Unit(NamedTuple):
    """A part of a supernet between two states.

    Args:
        modules: What it consists of.
        run: The next state, from the modules as functions of their arguments, whether single edges are evaluated
            again, and the state.
    """

    modules: tuple[nn.Module, ...]
    run: Callable[[Sequence[Callable[..., Any]], bool, State], State]


def require_words(where: str, words: Sequence[str]) -> None:
    """Raise unless ``words`` can say what is recomputed."""
    if not words:
        raise invalid(where, "recompute must not be empty", "nothing", "Keep everything with none.")
    for word in words:
        if word not in WORDS:
            raise invalid(where, f"recompute must hold {', '.join(WORDS)} only", repr(word))
    if words[0] == "joined":
        raise invalid(where, "recompute must not begin with joined", "joined", "Nothing stands before it.")


def find_word(words: Sequence[Word], position: int) -> Word:
    """The word of the unit at ``position``; the last one serves all units beyond it."""
    return words[min(position, len(words) - 1)]


def bind(module: nn.Module) -> Callable[..., Any]:
    """``module`` as a function of its arguments, with the parameters that it has now.

    A caller may have put other tensors in their place for the time of a forward pass
    (:func:`torch.func.functional_call`), and what is recomputed later needs the same ones.
    """
    held: dict[str, Tensor] = dict(module.named_parameters())
    return lambda *arguments: functional_call(module, held, arguments) if held else module(*arguments)


def checkpoint(module: nn.Module, *arguments: Any) -> Any:
    """``module(*arguments)``, recomputed in the backward pass unless it computes nothing."""
    if isinstance(module, nn.Identity):
        return arguments[0]
    return checkpointed(bind(module), *arguments)


def run_units(units: Sequence[Unit], words: Sequence[Word], *state: Tensor) -> State:
    """The state after all units, each of which is recomputed as its word says."""
    position = 0
    while position < len(units):
        end = position + 1
        while end < len(units) and find_word(words, end) == "joined":
            end += 1
        word, together = find_word(words, position), units[position:end]
        as_one = word == "cell" or len(together) > 1 or (word == "edges" and position == 0)
        if as_one:
            state = checkpointed(_chain(together), *state)
        else:
            state = units[position].run(units[position].modules, word == "edges", state)
        position = end
    return state


def _chain(units: Sequence[Unit]) -> Callable[..., State]:
    held = [[bind(module) for module in unit.modules] for unit in units]

    def run(*state: Tensor) -> State:
        for unit, modules in zip(units, held, strict=True):
            state = unit.run(modules, False, state)
        return state

    return run
