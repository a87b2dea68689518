"""How a foreign mixed operation or cell maps onto the engine: a value that holds names, not modules."""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

from torch import nn
from torch.jit import ScriptModule

from fastnas.acceleration.guards import Guard, is_constant
from fastnas.acceleration.primitives import Primitive, Unrecognised, read_primitive
from fastnas_kernels.mixed_op.plan import CellPlan, EdgePlan

FOREIGN_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What other people's code raises when it is called in a way that it does not expect."""


@dataclass(frozen=True)
class Edge:
    """A mixed operation: all its candidates, also the one that contributes nothing.

    Args:
        primitives: In the order of the coefficients, with names relative to the mixed operation's owner.
        stride: Of all candidates.
        channels: That the candidates see.
    """

    primitives: tuple[Primitive, ...]
    stride: int
    channels: int


@dataclass(frozen=True)
class Wiring:
    """How a module's arguments and parts map onto the engine.

    Args:
        plan: What the engine evaluates.
        edges: The mixed operations, in the order of ``plan.edges``.
        inputs: Names of the modules that prepare the input states; empty for a mixed operation by itself.
        arguments: Names of the arguments of the module's ``forward`` that the engine takes.
        fixed: Names of its further arguments with the only values for which the engine stands in.
        nested: Whether coefficients come as one table for each node instead of one for all edges.
        num_outputs: How many of the last nodes form the output.
        updates: How often a training step moves the running statistics: 2 in code that evaluates every mixed
            operation twice.
        skips_zeros: Whether candidates whose coefficient is zero do not run.
        guards: Plain values that the module's ``forward`` reads and that must stay as they are.
        modes: Names of the parts whose training mode it reads.
        changes_layout: Whether the engine's maps are channels-last where the module's are contiguous.
        keeps_layout: Whether they are copied into the layout of the module's.
    """

    plan: CellPlan
    edges: tuple[Edge, ...]
    inputs: tuple[str, ...]
    arguments: tuple[str, ...]
    fixed: tuple[tuple[str, object], ...] = ()
    nested: bool = False
    num_outputs: int = 1
    updates: int = 1
    skips_zeros: bool = False
    guards: tuple[Guard, ...] = ()
    modes: tuple[str, ...] = ()
    changes_layout: bool = False
    keeps_layout: bool = False

    @property
    def is_cell(self) -> bool:
        return len(self.inputs) > 0

    @cached_property
    def live(self) -> tuple[Primitive, ...]:
        """The primitives that the engine evaluates, in its order."""
        return tuple(p for edge in self.edges for p in edge.primitives if p.candidate is not None)

    @cached_property
    def convolutions(self) -> tuple[str, ...]:
        """Names of all convolutions, in the order in which the engine takes their filters."""
        return tuple(name for primitive in self.live for name in primitive.convolutions)

    @cached_property
    def norms(self) -> tuple[str, ...]:
        """Names of all normalisations, in the order of the engine's statistics."""
        return tuple(name for primitive in self.live for name in primitive.norms)

    @cached_property
    def by_themselves(self) -> tuple[str, ...]:
        """Names of the candidates that run beside the engine."""
        return tuple(p.by_itself for edge in self.edges for p in edge.primitives if p.by_itself is not None)

    @cached_property
    def columns(self) -> tuple[tuple[int, ...], ...]:
        """For each edge, which of its coefficients belong to live candidates."""
        return tuple(tuple(k for k, p in enumerate(e.primitives) if p.candidate is not None) for e in self.edges)

    @cached_property
    def by_node(self) -> tuple[tuple["Part", ...], ...]:
        """For each node of a cell of which some candidates run by themselves, what the engine evaluates at once: all
        edges that enter it, in two parts if those from the inputs have another stride."""
        return tuple(self._parts(target) for target in range(self.plan.num_inputs, self.plan.num_states))

    def _parts(self, target: int) -> tuple["Part", ...]:
        plan = self.plan
        numbers = [number for number, edge in enumerate(plan.edges) if edge.target == target]
        groups = [numbers]
        if plan.stride > 1:
            of_inputs = [number for number in numbers if plan.edges[number].source < plan.num_inputs]
            groups = [of_inputs, numbers[len(of_inputs) :]]
        parts = []
        for group in groups:
            live = tuple(number for number in group if plan.edges[number].candidates)
            if not live:
                continue
            sources = tuple(plan.edges[number].source for number in live)
            stride = self.edges[live[0]].stride
            edges = tuple(EdgePlan(i, len(live), plan.edges[number].candidates) for i, number in enumerate(live))
            alone = CellPlan(plan.channels, len(live), 1, edges, stride, 1, plan.eps)
            wiring = replace(self, plan=alone, edges=tuple(self.edges[number] for number in live), num_outputs=1)
            parts.append(Part(live, sources, wiring))
        return tuple(parts)

    @cached_property
    def flat_columns(self) -> list[list[int]]:
        """Edge and column of every live candidate."""
        pairs = [(number, column) for number, columns in enumerate(self.columns) for column in columns]
        return [[number for number, _ in pairs], [column for _, column in pairs]]

    def restricted(self, active: tuple[tuple[bool, ...], ...]) -> "Wiring":
        """The same with only the candidates that are ``active``, edge by edge; the last 64 are kept."""
        if all(map(all, active)):
            return self
        known = self._restricted
        if active not in known:
            if len(known) >= 64:
                known.pop(next(iter(known)))
            known[active] = self._restrict(active)
        return known[active]

    @cached_property
    def _restricted(self) -> dict[tuple[tuple[bool, ...], ...], "Wiring"]:
        return {}

    def _restrict(self, active: tuple[tuple[bool, ...], ...]) -> "Wiring":
        edges, plans = [], []
        for edge, plan, flags in zip(self.edges, self.plan.edges, active, strict=True):
            primitives = tuple(p if flag else _OFF for p, flag in zip(edge.primitives, flags, strict=True))
            edges.append(replace(edge, primitives=primitives))
            candidates = tuple(p.candidate for p in primitives if p.candidate is not None)
            plans.append(EdgePlan(plan.source, plan.target, candidates))
        if not any(plan.candidates for plan in plans):  # only what runs beside the engine is left
            plans = []
        num_nodes = self.plan.num_nodes if plans else 0
        return replace(self, edges=tuple(edges), plan=replace(self.plan, edges=tuple(plans), num_nodes=num_nodes))


@dataclass(frozen=True)
class Part:
    """Some edges of a cell as one evaluation.

    Args:
        edges: Their numbers in the cell.
        sources: The state that each reads.
        wiring: Of these edges alone.
    """

    edges: tuple[int, ...]
    sources: tuple[int, ...]
    wiring: Wiring


_OFF = Primitive(None, 1)


def arguments_of(module: nn.Module) -> tuple[tuple[str, ...], tuple[tuple[str, object], ...]]:
    """Names of the arguments of ``module.forward`` that must be given, and the others with their defaults.

    Both are empty if the defaults are no plain values, or arguments may be repeated.
    """
    if isinstance(module, ScriptModule):
        return (), ()
    parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
    required = tuple(p.name for p in parameters if p.default is p.empty)
    defaults = tuple((p.name, p.default) for p in parameters if p.default is not p.empty)
    plain = all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters) and all(is_constant(v) for _, v in defaults)
    return (required, defaults) if plain else ((), ())


def candidate_list(module: nn.Module) -> tuple[str, dict[str, nn.Module]] | None:
    """The modules in the one list or dictionary of modules that ``module`` holds, by their keys, with its name;
    ``None`` if it holds none or several."""
    filled = [(name, items) for name, part in module.named_children() if (items := _listed(part))]
    return filled[0] if len(filled) == 1 else None


def _listed(part: nn.Module) -> dict[str, nn.Module]:
    """What is in a list or dictionary of modules, also what is in it twice."""
    held = part._modules if isinstance(part, (nn.ModuleList, nn.ModuleDict)) else {}
    return {key: item for key, item in held.items() if item is not None}


def looks_mixed(module: nn.Module) -> bool:
    """Whether ``module`` has the shape of a mixed operation: listed candidates, ``forward(x, weights)``."""
    return candidate_list(module) is not None and len(arguments_of(module)[0]) == 2


def mixed_operations(module: nn.Module) -> dict[str, nn.Module]:
    """All that looks like a mixed operation in the list, or list of lists, that ``module`` holds, in order."""
    found = candidate_list(module)
    if found is None:
        return {}
    name, items = found
    groups = {f"{name}.{key}": _listed(item) for key, item in items.items() if _listed(item)} or {name: items}
    flat = {f"{prefix}.{key}": item for prefix, group in groups.items() for key, item in group.items()}
    return flat if all(looks_mixed(item) for item in flat.values()) else {}


def looks_like_cell(module: nn.Module) -> bool:
    """Whether ``module`` has the shape of a cell: mixed operations, ``forward`` of two states and coefficients."""
    return len(mixed_operations(module)) > 0 and len(arguments_of(module)[0]) in (3, 4)


def read_candidates(module: nn.Module, prefix: str = "", keep_unknown: bool = False) -> tuple[Primitive, ...]:
    """The candidates that ``module`` lists, with names that begin with ``prefix``.

    Args:
        module: A mixed operation.
        prefix: Its name in its owner, with a dot, or nothing.
        keep_unknown: Let a candidate that the engine does not know run by itself.

    Raises:
        Unrecognised: If it does not hold one list, or a candidate is none that the engine knows.
    """
    found = candidate_list(module)
    if found is None:
        raise Unrecognised("it does not hold one list of candidates")
    list_name, items = found
    primitives = []
    for key, item in items.items():
        path = f"{prefix}{list_name}.{key}"
        try:
            primitive = read_primitive(item)
        except (Unrecognised, *FOREIGN_ERRORS) as error:
            how = ":" if isinstance(error, Unrecognised) else " fails alone:"
            why = f"candidate {path} ({type(item).__name__}){how} {error}"
            if not keep_unknown:
                raise Unrecognised(why) from None
            primitives.append(Primitive(None, 0, by_itself=path, why=why))
            continue
        convolutions, norms = (
            tuple(f"{path}.{n}" if n else path for n in names) for names in (primitive.convolutions, primitive.norms)
        )
        primitives.append(replace(primitive, convolutions=convolutions, norms=norms))
    return tuple(primitives)


def read_edge(module: nn.Module, prefix: str = "", keep_unknown: bool = False) -> Edge:
    """The mixed operation that ``module``, named ``prefix`` in its owner, seems to be.

    Raises:
        Unrecognised: If a candidate is none that the engine knows, or they do not fit each other.
    """
    primitives = read_candidates(module, prefix, keep_unknown)
    strides = {p.stride for p in primitives if p.by_itself is None}
    channels = {p.channels for p in primitives if p.channels is not None}
    if len(strides) != 1 or len(channels) != 1:
        raise Unrecognised(f"its candidates have strides {sorted(strides)} and channels {sorted(channels)}")
    return Edge(primitives, strides.pop(), channels.pop())


def _plan(edges: Sequence[Edge], ends: Sequence[tuple[int, int]], num_inputs: int, channels: int) -> CellPlan:
    eps = {value for edge in edges for primitive in edge.primitives for value in primitive.eps}
    seen = {edge.channels for edge in edges}
    if len(eps) != 1 or len(seen) != 1 or channels % min(seen) != 0:
        raise Unrecognised(f"its candidates see {sorted(seen)} of {channels} channels and add eps {sorted(eps)}")
    strides = {edge.stride for edge, (source, _) in zip(edges, ends, strict=True) if source < num_inputs}
    inside = {edge.stride for edge, (source, _) in zip(edges, ends, strict=True) if source >= num_inputs}
    if len(strides) != 1 or not inside <= {1}:
        raise Unrecognised(f"edges from its inputs have strides {sorted(strides)}, those inside {sorted(inside)}")
    plans = [
        EdgePlan(source, target, tuple(p.candidate for p in edge.primitives if p.candidate is not None))
        for edge, (source, target) in zip(edges, ends, strict=True)
    ]
    num_nodes = max(target for _, target in ends) + 1 - num_inputs
    try:
        return CellPlan(channels, num_inputs, num_nodes, tuple(plans), strides.pop(), channels // seen.pop(), eps.pop())
    except ValueError as error:
        raise Unrecognised(str(error)) from None


def edge_wirings(module: nn.Module) -> list[Wiring]:
    """What a mixed operation may be: one wiring for each share of the channels that its candidates could see.

    Candidates that the engine does not know run beside it, as far as two others or a convolution are left to it.
    """
    edge = read_edge(module, keep_unknown=True)
    unknown = sum(primitive.by_itself is not None for primitive in edge.primitives)
    known = [primitive for primitive in edge.primitives if primitive.candidate is not None]
    if unknown and len(known) < 2 and not any(primitive.convolutions for primitive in known):
        edge = read_edge(module)  # says which candidate it is
    named = getattr(module, "k", None)
    shares = [named] if isinstance(named, int) and named > 0 else [1, 2, 4, 8]
    plans = [_plan([edge], [(0, 1)], 1, edge.channels * k) for k in ([1] if unknown else shares)]
    required, defaults = arguments_of(module)
    return [Wiring(plan, (edge,), (), required, defaults) for plan in plans]


def cell_wirings(module: nn.Module) -> list[Wiring]:
    """What a cell may be: its fourth argument may hold weights of edges, or a number that is zero for now."""
    wiring = _cell_wiring(module)
    if len(wiring.arguments) == 3:
        return [wiring]
    *three, last = wiring.arguments
    return [wiring, replace(wiring, arguments=tuple(three), fixed=((last, 0.0), *wiring.fixed))]


def _cell_wiring(module: nn.Module) -> Wiring:
    """What a cell seems to be: every node reads all earlier states, edges are listed node by node.

    Raises:
        Unrecognised: If the number of mixed operations or of other parts does not fit that.
    """
    operations = mixed_operations(module)
    edges = [read_edge(operation, f"{name}.", keep_unknown=True) for name, operation in operations.items()]
    nodes = list(accumulate(range(2, len(edges) + 2)))
    if len(edges) not in nodes:
        raise Unrecognised(f"{len(edges)} mixed operations do not make a complete graph with two inputs")
    num_nodes = nodes.index(len(edges)) + 1
    ends = [(source, target) for target in range(2, num_nodes + 2) for source in range(target)]
    found = candidate_list(module)
    assert found is not None
    inputs = [
        name
        for name, part in module.named_children()
        if name != found[0] and not isinstance(part, (nn.ModuleList, nn.ModuleDict))
    ]
    if len(inputs) != 2:
        raise Unrecognised(
            f"it holds {len(inputs)} parts beside its mixed operations ({inputs}), not one for each input"
        )
    plan = _plan(edges, ends, 2, _channels_after(module.get_submodule(inputs[0]), edges[0].channels))
    unknown = [primitive for edge in edges for primitive in edge.primitives if primitive.by_itself is not None]
    if unknown and (plan.k > 1 or 2 * len(unknown) > plan.num_coefficients + len(unknown)):
        raise Unrecognised(unknown[0].why)
    nested = any(map(_listed, found[1].values()))
    required, defaults = arguments_of(module)
    return Wiring(plan, tuple(edges), tuple(inputs), required, defaults, nested, num_nodes)


def _channels_after(prepare: nn.Module, default: int) -> int:
    """Channels that come out of the part that prepares an input."""
    norms = [part.num_features for part in prepare.modules() if isinstance(part, nn.BatchNorm2d)]
    return norms[-1] if norms else default


def channels_before(prepare: nn.Module, default: int) -> int:
    """Channels that the part which prepares an input reads."""
    return next((part.in_channels for part in prepare.modules() if isinstance(part, nn.Conv2d)), default)


def stride_of_input(prepare: nn.Module) -> int:
    """By how much the part that prepares an input shrinks it."""
    strides = [part.stride[0] for part in prepare.modules() if isinstance(part, nn.Conv2d)]
    return math.prod({stride for stride in strides if isinstance(stride, int)})
