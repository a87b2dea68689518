"""Put the engine under a network that somebody else wrote, and take it away again."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from fastnas.acceleration.evaluation import find_modules, obstacle
from fastnas.acceleration.mixed_op import MixedOp
from fastnas.acceleration.primitives import Unrecognised, read_primitive
from fastnas.acceleration.proof import NotTaken, prove, signature
from fastnas.acceleration.report import AccelerationReport, Left, Replaced
from fastnas.acceleration.stand_in import StandIn, install, stand_in_of
from fastnas.acceleration.wiring import (
    FOREIGN_ERRORS,
    Wiring,
    cell_wirings,
    edge_wirings,
    looks_like_cell,
    looks_mixed,
    mixed_operations,
)
from fastnas_kernels.check import complaint


@dataclass(frozen=True)
class _Session:
    """What all modules of a network share.

    Args:
        proved: What the proof said of every kind of module: networks repeat their cells.
        keeps_layout: Whether maps stay contiguous where they were, because dropout draws by the layout.
    """

    proved: dict[object, Wiring | Unrecognised]
    keeps_layout: bool


def accelerate(network: nn.Module) -> AccelerationReport:
    """Let the engine of fastnas evaluate the cells and mixed operations of a network that somebody else wrote.

    Finds modules of the shape that the DARTS family shares (Liu et al., 2019, arXiv:1806.09055): a mixed operation
    holds a list of candidates and computes ``forward(x, weights)``; a cell holds mixed operations, node by node, and
    computes ``forward(s0, s1, weights)``, or with weights of edges ``forward(s0, s1, weights, weights2)``
    (PC-DARTS: Xu et al., 2020, arXiv:1907.05737). Names of classes do not matter, and further arguments with defaults
    may follow: the engine stands in for calls that leave them as they are.

    Before a module is replaced, its forward is watched on a copy. It is left alone, and the report says why, if it
    reads anything that training could change and that cannot be compared again at every step. So it is if it sets
    attributes, draws random numbers, or does other arithmetic than sums and products of its candidates. Then copy and
    engine are evaluated side by side in float64; where output, gradients or running statistics differ by more than
    1e-10, or one has a gradient where the other has none, it is left, too. So is what mixes nothing: the engine would
    not be faster.

    Maps leave the engine in channels-last memory, unless the network holds a dropout that drops: it draws by the
    layout, so there the layout is kept, and the same seed drops the same values.

    Only ``forward`` of the replaced modules changes. Parameters and buffers stay the same objects under the same
    names, hooks on a replaced module fire, running statistics move as before. A module with hooks on parts that the
    engine would not call is left. If one is added later, only some normalisations are put into eval mode, or an
    attribute that its forward reads gets another value, the module's own ``forward`` runs and a warning says so. While
    a network is traced or exported, every module computes its own forward. Parts must not be replaced, widened or
    removed afterwards: call :func:`restore` first.

    Args:
        network: Any module; wrappers are looked into. It may have been accelerated before.

    Returns:
        What was replaced, and what was left and why.

    Raises:
        TypeError: If ``network`` is not a module.

    Example:
        >>> import torch, fastnas
        >>> class Mixed(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         pool = torch.nn.Sequential(torch.nn.MaxPool2d(3, 1, 1), torch.nn.BatchNorm2d(4, affine=False))
        ...         self.ops = torch.nn.ModuleList([torch.nn.Identity(), pool])
        ...     def forward(self, x, weights):
        ...         return sum(w * op(x) for w, op in zip(weights, self.ops))
        >>> len(fastnas.accelerate(Mixed()).replaced)
        1
    """
    if not isinstance(network, nn.Module):
        raise TypeError(complaint("accelerate", "network must be a torch.nn.Module", type(network).__name__))
    keeps_layout = any(isinstance(part, _DropoutNd) and part.p > 0 for part in network.modules())
    entries = list(_visit(network, "", set(), _Session({}, keeps_layout)))
    replaced = tuple(entry for entry in entries if isinstance(entry, Replaced))
    return AccelerationReport(replaced, tuple(entry for entry in entries if isinstance(entry, Left)))


def restore(network: nn.Module) -> None:
    """Undo :func:`accelerate`: every module computes its own ``forward`` again.

    Args:
        network: Any module, accelerated or not.

    Example:
        >>> import torch, fastnas
        >>> network = torch.nn.Sequential(torch.nn.Linear(2, 2))
        >>> report = fastnas.accelerate(network)
        >>> fastnas.restore(network)
    """
    for module in network.modules():
        if stand_in_of(module) is not None:
            del module.forward, module._replicate_for_data_parallel


def _visit(module: nn.Module, name: str, seen: set[int], session: _Session) -> Iterator[Replaced | Left]:
    if id(module) in seen:
        return
    seen.add(id(module))
    present = stand_in_of(module)
    if present is not None:
        yield present.describe(name)
        return
    if isinstance(module, MixedOp):
        yield Left(name, "it runs on the engine by itself")
        return
    if looks_like_cell(module) or looks_mixed(module):
        try:
            yield _replace(module, session).describe(name)
        except Unrecognised as error:
            yield Left(name, str(error))
        else:
            return
    elif _holds_candidates(module):
        yield Left(name, _hint(module))
        return
    for child_name, child in module.named_children():
        yield from _visit(child, f"{name}.{child_name}" if name else child_name, seen, session)


def _replace(module: nn.Module, session: _Session) -> StandIn:
    if "forward" in module.__dict__:
        raise Unrecognised("its forward was replaced by somebody else")
    is_cell = looks_like_cell(module)
    wirings = cell_wirings(module) if is_cell else edge_wirings(module)
    if not wirings[0].plan.mixes and not wirings[0].by_themselves:
        raise Unrecognised("nothing is mixed in it, and PyTorch's own operations are faster")
    reason = obstacle(find_modules(module, wirings[0]))
    if reason is not None:
        raise Unrecognised(reason)
    key = signature(module)
    if key not in session.proved:
        session.proved[key] = _prove_one(module, wirings)
    wiring = session.proved[key]
    if isinstance(wiring, Unrecognised):
        raise wiring
    if is_cell and (wiring.fixed or wiring.skips_zeros):  # its own forward runs at times, and then calls these
        for operation in mixed_operations(module).values():
            try:
                _replace(operation, session)
            except Unrecognised:
                continue
    return install(module, replace(wiring, keeps_layout=wiring.changes_layout and session.keeps_layout))


def _prove_one(module: nn.Module, wirings: list[Wiring]) -> Wiring | Unrecognised:
    not_taken = None
    for wiring in wirings:
        try:
            return prove(module, wiring)
        except NotTaken as error:
            not_taken = not_taken or error
        except Unrecognised as error:
            return error
    assert not_taken is not None
    return not_taken


def _holds_candidates(module: nn.Module) -> bool:
    """Whether ``module`` has a list with at least two candidates that the engine knows."""
    if _framework(module):
        return True
    lists = [part for part in module.children() if isinstance(part, (nn.ModuleList, nn.ModuleDict))]
    return any(sum(map(_is_candidate, part.children())) >= 2 for part in lists)


def _is_candidate(module: nn.Module) -> bool:
    if looks_mixed(module) or looks_like_cell(module):
        return False
    try:
        read_primitive(module)
    except FOREIGN_ERRORS:
        return False
    return True


def _framework(module: nn.Module) -> str:
    """The framework that keeps the coefficients of this mixed operation to itself."""
    home = type(module).__module__.split(".")[0]
    if home in ("nni", "naslib") and type(module).__name__ in ("LayerChoice", "DifferentiableMixedLayer", "MixedOp"):
        return {"nni": "NNI", "naslib": "NASLib"}[home]
    return (
        "ProxylessNAS" if any(name.startswith("AP_path") for name, _ in module.named_parameters(recurse=False)) else ""
    )


def _hint(module: nn.Module) -> str:
    kind, framework = type(module).__name__, _framework(module)
    if framework:
        return (
            f"{kind} of {framework} keeps its coefficients to itself: put fastnas.MixedOp in its place, which takes "
            "them as an argument, or describe the space to fastnas.search"
        )
    others = [name for name in dir(type(module)) if name.startswith("forward_")]
    remedy = f": let forward(x, weights) do what {' or '.join(others)} does" if others else ""
    return f"{kind} holds candidates, but computes no forward(x, weights) of them{remedy}"
