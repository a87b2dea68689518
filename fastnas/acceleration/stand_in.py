"""What stands in for the ``forward`` of a replaced module, and when it steps aside."""

import types
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from operator import itemgetter

import torch
from torch import Tensor, nn

from fastnas.acceleration.evaluation import EvaluatedModules, evaluate, find_modules, find_obstacle, restore_first
from fastnas.acceleration.guards import Guard, OtherThan, is_plain
from fastnas.acceleration.report import Replaced
from fastnas.acceleration.wiring import Wiring
from fastnas_kernels.check import complaint

_AGAIN = "Its own forward runs. fastnas.restore and then fastnas.accelerate take it as it is now."


class StandIn:
    """Stands in for one method of one module, its ``forward`` as a rule.

    It is a value that names the module, so that a deep copy or a pickle of the module holds one that names the copy.

    Args:
        module: Whose method it is.
        wiring: How it maps onto the engine.
        structure: What it and its parts were when it was proved, see :func:`read_structure`.
    """

    def __init__(self, module: nn.Module, wiring: Wiring, structure: "Structure | None" = None) -> None:
        self.module, self.wiring = module, wiring
        self.structure = read_structure(module, wiring.method) if structure is None else structure

    def __getstate__(self) -> dict[str, object]:
        return {"module": self.module, "wiring": self.wiring, "structure": self.structure}

    def __call__(self, *args: object, **named: object) -> Tensor:
        arguments, drop = self._bind(args, named)
        if arguments is None or torch._C._get_tracing_state() is not None or torch.compiler.is_exporting():
            return self._own(*args, **named)
        self._require_structure()
        reason = find_obstacle(self._found) or self._find_change()
        if reason is not None:
            text = complaint("fastnas.accelerate", "the module must be as it was found", reason, _AGAIN)
            warnings.warn(text, RuntimeWarning, stacklevel=3)
            return self._own(*args, **named)
        result = evaluate(self.module, self.wiring, self._found, arguments, drop)
        return self._own(*args, **named) if result is None else result

    def _own(self, *args: object, **named: object) -> Tensor:
        return getattr(type(self.module), self.wiring.method)(self.module, *args, **named)

    @property
    def __code__(self) -> types.CodeType:
        """Of the module's own forward: that is what an export looks for, and what runs in it."""
        return getattr(type(self.module), self.wiring.method).__code__

    def _bind(self, args: Sequence[object], named: dict[str, object]) -> tuple[list[object] | None, float]:
        """The arguments that the engine takes, ``None`` if another one has a value that only the module knows, and the
        probability of drop-path."""
        wiring = self.wiring
        names = [*wiring.arguments, *(name for name, _ in wiring.fixed)]
        given = dict(zip(names, args, strict=False)) | named
        fits = len(given) == len(args) + len(named) and set(wiring.arguments) <= set(given) <= set(names)
        if not fits:
            got = f"{len(args)} and {sorted(named)}"
            expected = f"arguments must be {list(wiring.arguments)}"
            if wiring.fixed:
                expected += f" and may be {[name for name, _ in wiring.fixed]}"
            raise TypeError(complaint(type(self.module).__name__, expected, got))
        drop = 0.0
        for name, value in wiring.fixed:
            now = given.get(name, value)
            if name == wiring.drops and type(now) is float and 0 < now < 1:
                drop = now if self.module.training else 0.0
            elif not (value.matches(now) if isinstance(value, OtherThan) else is_plain(now) and now == value):
                return None, 0.0
        return [given[name] for name in wiring.arguments], drop

    @cached_property
    def _found(self) -> EvaluatedModules:
        present = read_structure(self.module, self.wiring.method)
        now, before = ([(name, kind) for name, kind, _ in parts] for parts in (present, self.structure))
        if now != before:
            names = sorted({name for name, _ in {*now} ^ {*before}})
            raise RuntimeError(restore_first(type(self.module).__name__, f"other ones ({', '.join(names[:4])})"))
        return find_modules(self.module, self.wiring)

    @cached_property
    def _children(self) -> list[tuple[dict[str, nn.Module | None], dict[str, nn.Module | None]]]:
        """The tables of submodules of everything that the engine does not call, as they are and as they were."""
        return [(part._modules, dict(part._modules)) for part in (self.module, *self._found.bypassed) if part._modules]

    def _require_structure(self) -> None:
        for now, before in self._children:
            if now != before:
                names = [name for name in {**now, **before} if now.get(name) is not before.get(name)]
                raise RuntimeError(restore_first(type(self.module).__name__, f"another part {names[0]}"))

    @cached_property
    def _guards(self) -> tuple[list[tuple[Callable[..., object], dict[str, object], object]], list[Guard]]:
        """How to read all guarded attributes of a part at once, where it keeps them and their values, and all other
        guards: a cell has a thousand."""
        held: dict[str, dict[str, object]] = {}
        others = []
        for guard in self.wiring.guards:
            if not guard.is_global and guard.path[0] in vars(self.module.get_submodule(guard.owner)):
                held.setdefault(guard.owner, {})[guard.path[0]] = guard.value
            else:
                others.append(guard)
        readers = [(itemgetter(*values), owner, values) for owner, values in held.items()]
        tables = [(read, vars(self.module.get_submodule(owner)), read(values)) for read, owner, values in readers]
        return tables, others

    @cached_property
    def _forwards(self) -> list[tuple[nn.Module, type, object]]:
        """Of everything that the engine does not call: its class and its method when it was proved."""
        proved = {self.module.get_submodule(name): (kind, forward) for name, kind, forward in self.structure}
        return [(part, *proved[part]) for part in self._found.bypassed]

    def _find_change(self) -> str | None:
        for part, kind, forward in self._forwards:
            own = part.__dict__.get("forward")  # an edge of a cell may have an engine of its own
            if type(part) is not kind or kind.forward is not forward or not (own is None or isinstance(own, StandIn)):
                return f"another forward of its part {type(part).__name__}"
        if getattr(type(self.module), self.wiring.method) is not self.structure[0][2]:
            return f"another {self.wiring.method} of its own"
        tables, guards = self._guards
        try:
            for read, table, values in tables:
                if read(table) != values:
                    guards = self.wiring.guards
                    break
        except KeyError:  # an attribute is gone
            guards = self.wiring.guards
        for guard in guards:
            now = guard.read(self.module)
            if now is not guard.value and now != guard.value:
                return f"{guard}={now!r}, which was {guard.value!r},"
        return None

    def replicate(self) -> nn.Module:
        """A replica for another device, with an engine of its own: data parallelism copies the attributes of a module
        and not what they refer to."""
        replica = type(self.module)._replicate_for_data_parallel(self.module)
        for present in find_stand_ins(self.module):
            install(replica, present.wiring, present.structure)
        return replica

    def describe(self, name: str) -> Replaced:
        """What the report says about this module."""
        wiring, plan = self.wiring, self.wiring.plan
        channels = f"{plan.channels} channels" + (f", 1/{plan.k} of them mixed" if plan.k > 1 else "")
        what = f"{len(wiring.live) + len(wiring.layers)} candidates, {channels}, stride {plan.stride}"
        if wiring.is_cell:
            what = f"{plan.num_nodes} nodes, {len(plan.edges)} edges, {what}"
        if wiring.updates > 1:
            what += f"; moves running statistics {wiring.updates} times a step, as its own forward does"
        if any(p.kind == "conv" for one in wiring.layers if (p := one.layer)):
            what += "; convolutions that leave a state are one"
        if wiring.selects:
            what += "; only the candidate that is chosen on an edge runs"
        if wiring.skips_zeros:
            what += "; a candidate whose coefficient is zero does not run, as in its own forward"
        if wiring.fixed:
            values = (f"0<={name}<1" if name == wiring.drops else f"{name}={value!r}" for name, value in wiring.fixed)
            what += "; while " + " and ".join(values)
        unknown = [primitive.why for edge in wiring.edges for primitive in edge.primitives if primitive.by_itself]
        if unknown:
            more = f"; and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            what += f"; runs itself beside the engine{', node by node' if wiring.is_cell else ''}: {unknown[0]}{more}"
        changes_layout = wiring.changes_layout and not wiring.keeps_layout
        return Replaced(name, "cell" if wiring.is_cell else "edge", what, changes_layout)


Structure = Sequence[tuple[str, type, object]]


def read_structure(module: nn.Module, method: str) -> Structure:
    """Name, class and what the class computes, of ``module`` by a ``method`` and of all its parts by ``forward``."""
    parts = [(name, type(part), type(part).forward) for name, part in module.named_modules() if name]
    return [("", type(module), getattr(type(module), method)), *parts]


def install(module: nn.Module, wiring: Wiring, structure: Structure | None = None) -> StandIn:
    """Put a :class:`StandIn` in the place of the method of ``module`` that ``wiring`` names."""
    stand_in = StandIn(module, wiring, structure)
    setattr(module, wiring.method, stand_in)
    module._replicate_for_data_parallel = stand_in.replicate
    return stand_in


def find_stand_ins(module: nn.Module) -> list[StandIn]:
    """Those that ``module`` has."""
    return [value for value in module.__dict__.values() if isinstance(value, StandIn)]
