"""How a foreign mixed operation or cell maps onto the engine: a value that holds names, not modules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

from torch import nn

from fastnas.acceleration.guards import Guard, OtherThan
from fastnas.acceleration.primitives import Layer, LoosePlan, Primitive, Unrecognised, read_primitive
from fastnas.acceleration.shapes import (
    channels_after,
    find_candidate_list,
    find_candidates,
    find_edges,
    find_words,
    list_items,
    read_arguments,
)
from fastnas_kernels.mixed_op.plan import Candidate, CellPlan, EdgePlan

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
        arguments: Names of the arguments of the module's ``method`` that the engine takes.
        method: Of the module, for which the engine stands in.
        selects: Whether the last argument is the number of the one candidate that runs on each edge.
        offsets: Whether the coefficients of the others are added to every pixel.
        fixed: Names of its further arguments with the only values for which the engine stands in.
        drops: Which of these is the probability of drop-path by edge and image, for which the engine stands in, too.
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
    method: str = "forward"
    selects: bool = False
    offsets: bool = False
    fixed: tuple[tuple[str, object], ...] = ()
    drops: str = ""
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
        return len(self.edges) > 1 or len(self.inputs) > 0

    @property
    def has_shares(self) -> bool:
        """Whether the last argument weighs the edges."""
        return len(self.arguments) == self.plan.num_inputs + 2 and not self.selects

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
    def biases(self) -> tuple[tuple[str, ...], ...]:
        """For each of ``norms``, the convolutions whose biases are added right before it, where they are lost."""
        return tuple(names for primitive in self.live for names in primitive.biases)

    @cached_property
    def layers(self) -> tuple[Primitive, ...]:
        """The primitives that are known and for which there is no kernel."""
        return tuple(p for edge in self.edges for p in edge.primitives if p.layer is not None)

    @cached_property
    def tensors_of(self) -> tuple[str, ...]:
        """Names of all convolutions and normalisations whose weights are taken, and whose forward is not called."""
        of_layers = (name for p in self.layers for name in (*p.convolutions, *p.norms))
        return (*self.convolutions, *self.norms, *of_layers)

    @cached_property
    def by_themselves(self) -> tuple[str, ...]:
        """Names of the candidates that run beside the engine."""
        return tuple(p.by_itself for edge in self.edges for p in edge.primitives if p.by_itself is not None)

    @property
    def may_round(self) -> tuple[str, ...]:
        """Names of the parts of which a gradient may be rounding errors alone: they have biases, or are unknown."""
        of_layers = (name for primitive in self.layers for name in primitive.convolutions)
        return (*self.by_themselves, *of_layers, *(name for names in self.biases for name in names))

    @property
    def by_nodes(self) -> bool:
        """Whether nodes are evaluated one after another, for not all candidates have a kernel."""
        return isinstance(self.plan, LoosePlan)

    @cached_property
    def columns(self) -> tuple[tuple[int, ...], ...]:
        """For each edge, which of its coefficients belong to live candidates."""
        return tuple(tuple(k for k, p in enumerate(e.primitives) if p.candidate is not None) for e in self.edges)

    @cached_property
    def by_node(self) -> tuple[tuple["Part", ...], ...]:
        """For each node of a cell of which some candidates run by themselves, what the engine evaluates at once: all
        edges that enter it, in two parts if those from the inputs have another stride."""
        return tuple(self._parts(target) for target in range(self.plan.num_inputs, self.plan.num_states))

    @cached_property
    def by_edge(self) -> tuple[tuple["Part", ...], ...]:
        """The same with a map for each edge that enters a node, one after another."""
        return tuple(self._parts(target, True) for target in range(self.plan.num_inputs, self.plan.num_states))

    def _parts(self, target: int, apart: bool = False) -> tuple["Part", ...]:
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
            edges = tuple(
                EdgePlan(i, len(live) + i * apart, plan.edges[number].candidates) for i, number in enumerate(live)
            )
            num_nodes = len(live) if apart else 1
            alone = CellPlan(plan.channels, len(live), num_nodes, edges, stride, 1, plan.eps)
            of_live = tuple(self.edges[number] for number in live)
            wiring = replace(self, plan=alone, edges=of_live, num_outputs=num_nodes)
            parts.append(Part(live, sources, wiring))
        return tuple(parts)

    @cached_property
    def flat_columns(self) -> list[list[int]]:
        """Edge and column of every live candidate."""
        pairs = [(number, column) for number, columns in enumerate(self.columns) for column in columns]
        return [[number for number, _ in pairs], [column for _, column in pairs]]

    def restrict(self, active: tuple[tuple[bool, ...], ...]) -> "Wiring":
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
        return replace(self, edges=tuple(edges), plan=replace(self.plan, edges=tuple(plans)))


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


def read_candidates(candidates: Mapping[str, nn.Module], keep_unknown: bool = False) -> tuple[Primitive, ...]:
    """What the ``candidates`` of a mixed operation seem to be, with names that begin with their paths."""
    if not candidates:
        raise Unrecognised("it does not hold one list of candidates")
    primitives = []
    for path, item in candidates.items():

        def within(names: Sequence[str], path: str = path) -> tuple[str, ...]:
            return tuple(f"{path}.{name}" if name else path for name in names)

        try:
            found = read_primitive(item)
        except (Unrecognised, *FOREIGN_ERRORS) as error:
            how = ":" if isinstance(error, Unrecognised) else " fails alone:"
            why = f"candidate {path} ({type(item).__name__}){how} {error}"
            if not keep_unknown:
                raise Unrecognised(why) from None
            primitives.append(Primitive(None, 0, by_itself=path, why=why))
            continue
        biases = tuple(map(within, found.biases))
        primitives.append(
            replace(found, path=path, convolutions=within(found.convolutions), norms=within(found.norms), biases=biases)
        )
    return tuple(primitives)


def read_edge(module: nn.Module, path: str = "", keep_unknown: bool = False) -> Edge:
    """The mixed operation, or list of candidates, at ``path`` that ``module`` seems to be."""
    primitives = read_candidates(find_candidates(module, path), keep_unknown)
    strides = {p.stride for p in primitives if p.by_itself is None}
    channels = {p.channels for p in primitives if p.channels is not None}
    if len(strides) != 1 or len(channels) != 1:
        raise Unrecognised(f"its candidates have strides {sorted(strides)} and channels {sorted(channels)}")
    return Edge(primitives, strides.pop(), channels.pop())


def _without_lone_identities(edges: Sequence[Edge]) -> list[Edge]:
    """``edges``, with identities as layers where no candidate needs a kernel: it would add up nothing but them."""
    if any(p.candidate not in (None, _SKIP) or p.norms for e in edges for p in e.primitives if p.layer is None):
        return list(edges)
    same = Primitive(None, 1, layer=Layer("same"))
    return [replace(e, primitives=tuple(same if p.candidate else p for p in e.primitives)) for e in edges]


_SKIP = Candidate("skip")


def _plan(edges: Sequence[Edge], ends: Sequence[tuple[int, int]], num_inputs: int, channels: int) -> CellPlan:
    eps = {value for edge in edges for p in edge.primitives if p.layer is None for value in p.eps}
    seen = {edge.channels for edge in edges}
    loose = any(p.layer or p.by_itself for edge in edges for p in edge.primitives)
    if len(eps) != 1 and not (loose and not eps):
        raise Unrecognised(f"its candidates add eps {sorted(eps)}")
    if len(seen) != 1 or channels % min(seen) != 0:
        raise Unrecognised(f"its candidates see {sorted(seen)} of {channels} channels")
    strides = {edge.stride for edge, (source, _) in zip(edges, ends, strict=True) if source < num_inputs}
    inside = {edge.stride for edge, (source, _) in zip(edges, ends, strict=True) if source >= num_inputs}
    if len(strides) != 1 or not inside <= {1}:
        raise Unrecognised(f"edges from its inputs have strides {sorted(strides)}, those inside {sorted(inside)}")
    plans = tuple(
        EdgePlan(source, target, tuple(p.candidate for p in edge.primitives if p.candidate is not None))
        for edge, (source, target) in zip(edges, ends, strict=True)
    )
    num_nodes = max(target for _, target in ends) + 1 - num_inputs
    make, k = LoosePlan if loose else CellPlan, channels // seen.pop()
    if loose and k > 1:
        why = next(
            p.why or "a pool without a normalisation" for e in edges for p in e.primitives if p.layer or p.by_itself
        )
        raise Unrecognised(f"it mixes 1/{k} of the channels, and {why}")
    try:
        return make(channels, num_inputs, num_nodes, plans, strides.pop(), k, eps.pop() if eps else 1e-5)
    except ValueError as error:
        raise Unrecognised(str(error)) from None


def require_gain(edges: Sequence[Edge]) -> None:
    """Refuse edges of which the engine would evaluate too little."""
    primitives = [primitive for edge in edges for primitive in edge.primitives]
    unknown = [p for p in primitives if p.by_itself]
    known = [p for p in primitives if p.candidate or p.layer]
    needed = len(unknown) if len(edges) > 1 else 2 - any(p.convolutions for p in known)
    if unknown and len(known) < needed:
        raise Unrecognised(unknown[0].why)
    if len(known) + len(unknown) < 2 or not any(p.norms or p.by_itself for p in primitives):
        raise Unrecognised("nothing is mixed in it, and PyTorch's own operations are faster")


def list_edge_wirings(module: nn.Module, method: str) -> list[Wiring]:
    """What a mixed operation may be: one wiring for each share of the channels that its candidates could see.

    Candidates that the engine does not know run beside it, as far as two others or a convolution are left to it.
    """
    (edge,) = _without_lone_identities([read_edge(module, keep_unknown=True)])
    require_gain([edge])
    alone = any(p.by_itself or p.layer for p in edge.primitives)
    named = getattr(module, "k", None)
    shares = [named] if isinstance(named, int) and named > 0 else [1] if alone else [1, 2, 4, 8]
    plans = [_plan([edge], [(0, 1)], 1, edge.channels * k) for k in shares]
    required, defaults = read_arguments(module, method)
    wirings = [Wiring(plan, (edge,), (), required, method, fixed=defaults) for plan in plans]
    return wirings if len(required) == 2 else [one for wiring in wirings for one in _by_mode(module, wiring)]


def _by_mode(module: nn.Module, wiring: Wiring) -> list[Wiring]:
    """``wiring`` while its last argument is no word that the module's code knows, or one of them."""
    *others, last = wiring.arguments
    modes = [(last, word) for word in (OtherThan("\0"), *find_words(module))] if find_words(module) else []
    return [replace(wiring, arguments=tuple(others), fixed=(mode, *wiring.fixed)) for mode in modes]


def list_cell_wirings(module: nn.Module, method: str) -> list[Wiring]:
    """What a cell may be: its argument after the coefficients may hold weights of edges, numbers of candidates, a
    number that is zero for now, or a word that selects a mode."""
    wiring = _cell_wiring(module, method)
    if len(wiring.arguments) == wiring.plan.num_inputs + 1:
        return [wiring]
    *others, last = wiring.arguments
    fixed = replace(wiring, arguments=tuple(others), fixed=((last, 0.0), *wiring.fixed))
    chosen = replace(wiring, selects=True)
    with_offsets = [replace(chosen, offsets=True)] if wiring.by_nodes else []
    return [wiring, chosen, *with_offsets, *_by_mode(module, wiring), fixed]


def _cell_wiring(module: nn.Module, method: str) -> Wiring:
    """What a cell seems to be: every node reads all earlier states, edges are listed node by node."""
    operations, found = find_edges(module), find_candidate_list(module)
    assert found is not None
    num_inputs = 1 if any(map(list_items, operations.values())) else 2
    edges = _without_lone_identities([read_edge(e, path, keep_unknown=True) for path, e in operations.items()])
    nodes = list(accumulate(range(num_inputs, len(edges) + num_inputs)))
    if len(edges) not in nodes:
        raise Unrecognised(f"{len(edges)} mixed operations do not make a complete graph with {num_inputs} inputs")
    num_nodes = nodes.index(len(edges)) + 1
    ends = [(source, target) for target in range(num_inputs, num_nodes + num_inputs) for source in range(target)]
    inputs = [
        name
        for name, part in module.named_children()
        if name != found[0] and not isinstance(part, (nn.ModuleList, nn.ModuleDict))
    ]
    if len(inputs) != (2 if num_inputs == 2 else 0):
        raise Unrecognised(
            f"it holds {len(inputs)} parts beside its mixed operations ({inputs}), not one for each input"
        )
    channels = edges[0].channels
    plan = _plan(
        edges, ends, num_inputs, channels_after(module.get_submodule(inputs[0]), channels) if inputs else channels
    )
    require_gain(edges)
    nested = num_inputs == 2 and any(map(list_items, found[1].values()))
    required, defaults = read_arguments(module, method)
    return Wiring(
        plan, tuple(edges), tuple(inputs), required, method, fixed=defaults, nested=nested, num_outputs=num_nodes
    )
