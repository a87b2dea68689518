"""Put the engine under a network that somebody else wrote, and take it away again."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from fastnas.acceleration.evaluation import find_modules, find_obstacle
from fastnas.acceleration.mixed_op import MixedOp
from fastnas.acceleration.primitives import Primitive, Unrecognised, read_primitive
from fastnas.acceleration.proof import NotTaken, describe_shapes, prove
from fastnas.acceleration.report import AccelerationReport, Left, Replaced
from fastnas.acceleration.shapes import find_cell_methods, find_edges, find_mixing_methods
from fastnas.acceleration.stand_in import StandIn, find_stand_ins, install
from fastnas.acceleration.wiring import FOREIGN_ERRORS, Wiring, list_cell_wirings, list_edge_wirings, require_gain
from fastnas.errors import require_type
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
    may follow: the engine stands in for calls that leave them as they are. Methods whose names begin with ``forward_``
    are found, too, and cells of mere lists of candidates, ``forward(x, weights)`` (NAS-Bench-201: Dong and Yang, 2020,
    arXiv:2001.00326), and those that take the numbers of the candidates to run (GDAS: Dong and Yang, 2019,
    arXiv:1910.04465). Where a default is zero and proves to be the probability of drop-path, any probability is taken.

    Before a module is replaced, its forward is watched on a copy. It is left alone, and the report says why, if it
    reads anything that training could change and that cannot be compared again at every step. So it is if it sets
    attributes, draws random numbers, or does other arithmetic than sums and products of its candidates. Then copy and
    engine are evaluated side by side in float64; where output, gradients or running statistics differ by more than
    1e-10, or one has a gradient where the other has none, it is left, too. So is what mixes nothing: the engine would
    not be faster.

    Maps leave the engine in channels-last memory, unless the network holds a dropout that drops: it draws by the
    layout, so there the layout is kept, and the same seed drops the same values.

    Only the methods named in the report change. Parameters and buffers stay the same objects under the same
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
    for module in require_type("restore", "network", network, nn.Module).modules():
        for present in find_stand_ins(module):
            delattr(module, present.wiring.method)
            module.__dict__.pop("_replicate_for_data_parallel", None)


def _visit(module: nn.Module, name: str, seen: set[int], session: _Session) -> Iterator[Replaced | Left]:
    if id(module) in seen:
        return
    seen.add(id(module))
    present = find_stand_ins(module)
    if present:
        yield _describe(name, present)
        return
    if isinstance(module, MixedOp):
        yield Left(name, "it runs on the engine by itself")
        return
    if find_cell_methods(module) or find_mixing_methods(module):
        yield from (Left(name, reason) for reason in _replace(module, session))
        present = find_stand_ins(module)
        if present:
            yield _describe(name, present)
            return
    elif _holds_candidates(module):
        yield Left(name, _hint(module))
        return
    for child_name, child in module.named_children():
        yield from _visit(child, f"{name}.{child_name}" if name else child_name, seen, session)


def _describe(name: str, present: list[StandIn]) -> Replaced:
    replaced = present[0].describe(name)
    methods = [stand_in.wiring.method for stand_in in present]
    return (
        replaced if methods == ["forward"] else replaced._replace(what=f"{replaced.what}; in {' and '.join(methods)}")
    )


def _replace(module: nn.Module, session: _Session) -> list[str]:
    """Put the engine in the place of the methods of ``module`` that mix, and say why others are left."""
    is_cell = len(find_cell_methods(module)) > 0
    key, proved = describe_shapes(module), []
    left: list[tuple[str, Unrecognised]] = []
    for method in find_cell_methods(module) or find_mixing_methods(module):
        try:
            proved.append(_prove_once(module, method, is_cell, key, session))
        except Unrecognised as error:
            left.append((method, error))
    for wiring in proved:
        if is_cell and (wiring.fixed or wiring.skips_zeros):  # its own forward runs at times, and then calls these
            for operation in find_edges(module).values():
                if find_mixing_methods(operation) and not find_stand_ins(operation):
                    _replace(operation, replace(session, keeps_layout=True))  # it may draw by the layout
        install(module, replace(wiring, keeps_layout=wiring.changes_layout and session.keeps_layout))
    return [
        str(error) if method == "forward" else f"{method}: {error}"
        for method, error in left
        if not (proved and method != "forward" and isinstance(error, NotTaken))  # it is a method for something else
    ]


def _prove_once(module: nn.Module, method: str, is_cell: bool, key: object, session: _Session) -> Wiring:
    if method in module.__dict__:
        raise Unrecognised(f"its {method} was overridden")
    wirings = (list_cell_wirings if is_cell else list_edge_wirings)(module, method)
    reason = find_obstacle(find_modules(module, wirings[0]))
    if reason is not None:
        raise Unrecognised(reason)
    if (method, key) not in session.proved:
        session.proved[method, key] = _prove_one(module, wirings)
    wiring = session.proved[method, key]
    if isinstance(wiring, Unrecognised):
        raise wiring
    return wiring


def _prove_one(module: nn.Module, wirings: list[Wiring]) -> Wiring | Unrecognised:
    first = None
    for wiring in chain(wirings, _without_convolutions(wirings)):
        try:
            return prove(module, wiring)
        except Unrecognised as error:
            first = error if first is None or isinstance(first, NotTaken) > isinstance(error, NotTaken) else first
    assert first is not None
    return first


def _without_convolutions(wirings: list[Wiring]) -> Iterator[Wiring]:
    """The same where candidates of one convolution run themselves: they may rectify behind it or not at all."""

    def alone(one: Primitive) -> Primitive:
        if one.layer is None or one.layer.kind != "conv":
            return one
        why = f"candidate {one.path}: it is not ReLU, convolution and normalisation in this order"
        return Primitive(None, 0, by_itself=one.path, why=why)

    for wiring in wirings:
        if any(one.convolutions for one in wiring.layers):
            edges = tuple(replace(edge, primitives=tuple(map(alone, edge.primitives))) for edge in wiring.edges)
            with suppress(Unrecognised):
                require_gain(edges)
                yield replace(wiring, edges=edges)


def _holds_candidates(module: nn.Module) -> bool:
    """Whether ``module`` has a list with at least two candidates that the engine knows."""
    if _framework(module):
        return True
    lists = [part for part in module.children() if isinstance(part, (nn.ModuleList, nn.ModuleDict))]
    return any(sum(map(_is_candidate, part.children())) >= 2 for part in lists)


def _is_candidate(module: nn.Module) -> bool:
    if find_mixing_methods(module) or find_cell_methods(module):
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
