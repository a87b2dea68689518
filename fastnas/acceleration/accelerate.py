"""Put the engine under a network that somebody else wrote, and take it away again."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from fastnas.acceleration.evaluation import Parts, evaluate, find_parts, obstacle
from fastnas.acceleration.mixed_op import MixedOp
from fastnas.acceleration.primitives import Unrecognised, read_primitive
from fastnas.acceleration.report import AccelerationReport, Left, Replaced
from fastnas.acceleration.trial import NotTaken, prove
from fastnas.acceleration.wiring import (
    FOREIGN_ERRORS,
    Wiring,
    cell_wiring,
    edge_wirings,
    looks_like_cell,
    looks_mixed,
)
from fastnas_kernels.check import complaint


@dataclass(frozen=True)
class Accelerated:
    """Stands in for the ``forward`` of one module.

    It is a value that names the module, so that a deep copy or a pickle of the module holds one that names the copy.
    """

    module: nn.Module
    wiring: Wiring

    @cached_property
    def _parts(self) -> Parts:
        return find_parts(self.module, self.wiring)

    def __call__(self, *args: object, **named: object) -> Tensor:
        missing = self.wiring.arguments[len(args) :]
        if len(args) + len(named) != len(self.wiring.arguments) or set(named) != set(missing):
            given = f"{len(args)} and {sorted(named)}"
            expected = f"arguments must be {list(self.wiring.arguments)}"
            raise TypeError(complaint(type(self.module).__name__, expected, given))
        arguments = [*args, *(named[name] for name in missing)]
        reason = obstacle(self._parts)
        if reason is not None:
            text = complaint(
                "fastnas.accelerate", "the module must be as it was found", reason, "Its own forward runs."
            )
            warnings.warn(text, RuntimeWarning, stacklevel=3)
            return type(self.module).forward(self.module, *arguments)
        return evaluate(self.module, self.wiring, self._parts, arguments)

    def replicate(self) -> nn.Module:
        """A replica for another device, with an engine of its own: data parallelism copies the attributes of a module
        and not what they refer to."""
        replica = type(self.module)._replicate_for_data_parallel(self.module)
        _install(replica, self.wiring)
        return replica

    def describe(self, name: str) -> Replaced:
        """What the report says about this module."""
        plan = self.wiring.plan
        count, stride = len(self.wiring.live), f"stride {plan.stride}"
        channels = f"{plan.channels} channels" + (f", 1/{plan.k} of them mixed" if plan.k > 1 else "")
        if not self.wiring.is_cell:
            return Replaced(name, "edge", f"{count} candidates, {channels}, {stride}")
        what = f"{plan.num_nodes} nodes, {len(plan.edges)} edges, {count} candidates, {channels}, {stride}"
        if self.wiring.updates > 1:
            what += f"; moves running statistics {self.wiring.updates} times a step, as its own forward does"
        return Replaced(name, "cell", what)


def accelerate(network: nn.Module) -> AccelerationReport:
    """Let the engine of fastnas evaluate the cells and mixed operations of a network that somebody else wrote.

    Finds modules of the shape that the DARTS family shares (Liu et al., 2019, arXiv:1806.09055): a mixed operation
    holds a list of candidates and computes ``forward(x, weights)``; a cell holds mixed operations, node by node, and
    computes ``forward(s0, s1, weights)``, or with weights of edges ``forward(s0, s1, weights, weights2)``
    (PC-DARTS: Xu et al., 2020, arXiv:1907.05737). Names of classes do not matter. Before a module is replaced, a
    copy of it and the engine are evaluated side by side in float64, and where output, gradients or running statistics
    differ by more than 1e-10 it is left alone. So is what mixes nothing, a single candidate or identities alone: the
    engine would not be faster.

    Only ``forward`` of the replaced modules changes. Parameters and buffers stay the same objects under the same
    names, hooks on a replaced module fire, running statistics move as before. A module with hooks on parts that the
    engine would not call is left; if one is added later, or only some normalisations are put into eval mode, the
    module's own ``forward`` runs and a warning says so. Structure and class of the parts must not change afterwards:
    call :func:`restore` first.

    Args:
        network: Any module; wrappers are looked into. It may have been accelerated before.

    Returns:
        What was replaced, and what was left and why.

    Raises:
        TypeError: If ``network`` is not a module.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(complaint("accelerate", "network must be a torch.nn.Module", type(network).__name__))
    entries = list(_visit(network, "", set()))
    replaced = tuple(entry for entry in entries if isinstance(entry, Replaced))
    return AccelerationReport(replaced, tuple(entry for entry in entries if isinstance(entry, Left)))


def restore(network: nn.Module) -> None:
    """Undo :func:`accelerate`: every module computes its own ``forward`` again.

    Args:
        network: Any module, accelerated or not.
    """
    for module in network.modules():
        if isinstance(module.__dict__.get("forward"), Accelerated):
            del module.forward, module._replicate_for_data_parallel


def _install(module: nn.Module, wiring: Wiring) -> Accelerated:
    accelerated = Accelerated(module, wiring)
    module.forward = accelerated
    module._replicate_for_data_parallel = accelerated.replicate
    return accelerated


def _visit(module: nn.Module, name: str, seen: set[int]) -> Iterator[Replaced | Left]:
    if id(module) in seen:
        return
    seen.add(id(module))
    present = module.__dict__.get("forward")
    if isinstance(present, Accelerated):
        yield present.describe(name)
        return
    if isinstance(module, MixedOp):
        yield Left(name, "it runs on the engine by itself")
        return
    if looks_like_cell(module) or looks_mixed(module):
        try:
            yield _replace(module).describe(name)
        except Unrecognised as error:
            yield Left(name, str(error))
        else:
            return
    elif _holds_candidates(module):
        yield Left(name, f"{type(module).__name__} holds candidates, but computes no forward(x, weights) of them")
        return
    for child_name, child in module.named_children():
        yield from _visit(child, f"{name}.{child_name}" if name else child_name, seen)


def _replace(module: nn.Module) -> Accelerated:
    if "forward" in module.__dict__:
        raise Unrecognised("its forward was replaced by somebody else")
    wirings = [cell_wiring(module)] if looks_like_cell(module) else edge_wirings(module)
    if not wirings[0].plan.mixes:
        raise Unrecognised("nothing is mixed in it, and PyTorch's own operations are faster")
    reason = obstacle(find_parts(module, wirings[0]))
    if reason is not None:
        raise Unrecognised(reason)
    not_taken = None
    for wiring in wirings:
        try:
            return _install(module, prove(module, wiring))
        except NotTaken as error:
            not_taken = not_taken or error
    assert not_taken is not None
    raise not_taken


def _holds_candidates(module: nn.Module) -> bool:
    """Whether ``module`` has a list with at least two candidates that the engine knows."""
    lists = [part for part in module.children() if isinstance(part, (nn.ModuleList, nn.ModuleDict))]
    return any(sum(map(_is_candidate, part.children())) >= 2 for part in lists)


def _is_candidate(module: nn.Module) -> bool:
    try:
        read_primitive(module)
    except FOREIGN_ERRORS:
        return False
    return True
