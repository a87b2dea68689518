"""The classic architect as something that can be checked: a network, two batches, an optimiser for each side."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fastnas.bilevel.problem import Loss, Tensors
from fastnas.checks.claims import slope_of_outer
from fastnas.checks.system import Claim, System
from fastnas.errors import describe, invalid

Batch = tuple[Tensor, Tensor]


def architect_system(
    network: nn.Module,
    train: Batch,
    valid: Batch,
    *,
    alpha_step: Callable[[], object],
    weight_optimizer: torch.optim.Optimizer,
    alpha_optimizer: torch.optim.Optimizer,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    claim: Claim = slope_of_outer,
) -> System:
    """Describe a search in the style of DARTS (Liu et al., 2019, arXiv:1806.09055) to :func:`fastnas.check`.

    Alpha is what ``alpha_optimizer`` owns; it may be parameters, attributes or lists of the network. The step of the
    weights is one of ``weight_optimizer`` on ``train``.

    Args:
        network: Called as ``network(images)``, fresh and in float64. It may return a tuple whose last entry is the
            logits.
        train: Images and labels that the weights descend on.
        valid: Images and labels that alpha descends on.
        alpha_step: Moves alpha once, as the search does.
        weight_optimizer: Of the weights.
        alpha_optimizer: Of alpha.
        loss: Of logits and labels.
        claim: What alpha's gradient is said to be: :func:`fastnas.checks.claims.slope_of_outer` for first order,
            ``slope_after_step`` or ``CentralDifference()`` for second order.

    Returns:
        The system, to be returned by the function that is given to :func:`fastnas.check`.

    Raises:
        ValueError: If the network does not hold a tensor of ``alpha_optimizer``.

    Example:
        >>> import fastnas, torch
        >>> from fastnas.checks.architect import architect_system
        >>> class Supernet(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.paths = torch.nn.ModuleList(torch.nn.Linear(4, 3) for _ in range(2))
        ...         self.alphas = torch.randn(2, requires_grad=True)
        ...     def forward(self, x):
        ...         return sum(a * path(x) for a, path in zip(self.alphas.softmax(0), self.paths))
        >>> def build(seed):
        ...     torch.manual_seed(seed)
        ...     net = Supernet().double()
        ...     net.alphas = net.alphas.detach().double().requires_grad_()
        ...     train, valid = ((torch.randn(6, 4).double(), torch.arange(6) % 3) for _ in range(2))
        ...     sgd, adam = torch.optim.SGD(net.parameters(), 0.1), torch.optim.Adam([net.alphas], 0.01)
        ...     def step():
        ...         adam.zero_grad()
        ...         torch.nn.functional.cross_entropy(net(valid[0]), valid[1]).backward()
        ...         adam.step()
        ...     return architect_system(net, train, valid, alpha_step=step, weight_optimizer=sgd, alpha_optimizer=adam)
        >>> fastnas.check(build).ok
        True
    """
    owned = [a for group in alpha_optimizer.param_groups for a in group["params"]]
    alpha = _names(network, owned)
    ids = {id(a) for a in owned}
    w = {name: p for name, p in network.named_parameters() if id(p) not in ids}
    as_parameters = {name: p for name, p in network.named_parameters() if id(p) in ids}

    def value(batch: Batch) -> Loss:
        def of(weights: Tensors, logits: Tensors, draw: int) -> Tensor:
            others = {id(a): logits[name] for name, a in alpha.items()}
            given = {name: x.clone() for name, x in network.named_buffers()}
            given |= {name: others[id(p)] for name, p in as_parameters.items()}
            with _put_in_place(network, others):
                return loss(_logits(functional_call(network, {**weights, **given}, (batch[0],))), batch[1])

        return of

    def weight_step() -> None:
        weight_optimizer.zero_grad()
        loss(_logits(network(train[0])), train[1]).backward()
        weight_optimizer.step()

    return System(
        w=w,
        alpha=alpha,
        outer=value(valid),
        inner=value(train),
        alpha_step=lambda: (alpha_step(), None)[1],
        weight_step=weight_step,
        alpha_optimizer=alpha_optimizer,
        weight_optimizer=weight_optimizer,
        claim=claim,
        buffers=dict(network.named_buffers()),
    )


def _logits(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs[-1]


def _names(network: nn.Module, owned: list[Tensor]) -> dict[str, Tensor]:
    """The tensors under the names of the attributes that hold them."""
    found: dict[int, str] = {}
    for part_name, part in network.named_modules():
        for table in (vars(part), part._parameters):
            for key, held in table.items():
                places = _places(held)
                for position, (_, place) in enumerate(places):
                    number = f".{position}" if len(places) > 1 else ""
                    found.setdefault(id(place), ".".join(filter(None, (part_name, key))) + number)
    missing = [describe(a) for a in owned if id(a) not in found]
    if missing:
        rule = "network must hold every tensor of alpha_optimizer as a parameter, an attribute or in a list"
        raise invalid("architect_system", rule, f"{len(missing)} that it does not, {missing[0]} first")
    names = {id(a): found[id(a)] for a in owned}
    # the check tells edges by a name that begins with beta
    return {(f"beta {n}" if "beta" in n and not n.startswith("beta") else n): a for n, a in zip(names.values(), owned)}  # noqa: B905


def _places(held: object) -> list[tuple[int | str | None, Tensor]]:
    """The tensors in an attribute: itself, or those in a list."""
    if isinstance(held, Tensor):
        return [(None, held)]
    if isinstance(held, list):
        return [(i, x) for i, x in enumerate(held) if isinstance(x, Tensor)]
    return []


@contextmanager
def _put_in_place(network: nn.Module, others: dict[int, Tensor]) -> Generator[None, None, None]:
    """Other tensors wherever attributes and lists of the network hold those with the given ids."""
    undo: list[Callable[[], None]] = []
    for part in network.modules():
        for key, held in list(vars(part).items()):
            if isinstance(held, Tensor) and id(held) in others:
                undo.append(lambda part=part, key=key, held=held: part.__dict__.__setitem__(key, held))
                part.__dict__[key] = others[id(held)]
            elif isinstance(held, list):
                for i, x in enumerate(held):
                    if isinstance(x, Tensor) and id(x) in others:
                        undo.append(lambda held=held, i=i, x=x: held.__setitem__(i, x))
                        held[i] = others[id(x)]
    try:
        yield
    finally:
        for step in reversed(undo):
            step()
