"""The proof before a replacement: a copy of the module and the engine, side by side on small random inputs."""

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from fastnas.acceleration.evaluation import evaluate, find_modules
from fastnas.acceleration.guards import hook_tables, is_plain
from fastnas.acceleration.observation import Observation, Probability, observe, operations
from fastnas.acceleration.primitives import Unrecognised
from fastnas.acceleration.probes import Probe, list_probes, make_arguments, make_twin
from fastnas.acceleration.wiring import FOREIGN_ERRORS, Wiring

ROUNDING = 1e-14
"""Relative to the largest value of all tensors: what a gradient that is zero in exact arithmetic may differ by, as that
of a bias before a normalisation."""
TOLERANCE = 1e-10
"""Relative to the largest value of each tensor, in float64: rounding differs by 1e-13, another computation by far
more."""
_BUFFER = "its buffer "
_DRAWN = "the random numbers"
_LOOKS = "where it looks at the values of its coefficients"
_SHAPES = ((2, 8), (1, 16), (128, 32))
"""Images and their side, for which a forward that looks at shapes must call the same operations."""


class NotTaken(Unrecognised):
    """The module itself fails on the inputs that the wiring expects it to take."""


def prove(module: nn.Module, wiring: Wiring) -> Wiring:
    """The wiring, completed by what only running the module tells, if the engine then equals the module.

    First the module's forward is watched on a copy in float64: whatever it reads beside its arguments is accounted for,
    or it is left (see :mod:`fastnas.acceleration.observation`). Then both are evaluated with random weights and running
    statistics, in training and in eval mode, with and without gradients, on even and odd maps. Coefficients are dense,
    sum to one, are tiny or large, or zero one by one, all but one, or all. Compared are the output, the gradients of
    inputs, coefficients and weights (also whether there is one), and all buffers.

    Raises:
        Unrecognised: If they differ, naming the first thing that does.
    """
    tensors = [*module.parameters(), *module.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    if device.type == "meta":
        raise Unrecognised("its tensors are on the meta device, where nothing can be tried")
    if len({id(module.get_submodule(name)) for name in wiring.tensors_of}) < len(wiring.tensors_of):
        raise Unrecognised("two of its candidates share a layer")
    autocast_off = torch.autocast(device.type, enabled=False) if device.type in ("cpu", "cuda") else nullcontext()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), autocast_off, torch.enable_grad():
        generator = torch.Generator().manual_seed(0)
        try:
            twin = make_twin(module, generator)
        except FOREIGN_ERRORS as error:
            raise Unrecognised(f"it cannot be copied: {_first_line(error)}") from None
        wiring = _watch(twin, wiring, device, generator)
        for probe in list_probes(wiring):
            arguments = [argument.to(device) for argument in make_arguments(twin, wiring, probe, generator)]
            try:
                wiring = _compare(twin, wiring, arguments, probe)
            except NotTaken:
                if probe.size % 2 == 0:
                    raise
        return _with_drop_path(twin, wiring, device, generator)


def _with_drop_path(twin: nn.Module, wiring: Wiring, device: torch.device, generator: torch.Generator) -> Wiring:
    """The wiring for which an argument that is zero may be the probability of drop-path, if it is one."""
    zeros = [name for name, value in wiring.fixed if type(value) is float and value == 0]
    if not wiring.inputs or wiring.by_nodes or wiring.skips_zeros or wiring.plan.k > 1 or not zeros:
        return wiring
    for name in zeros:
        probes = (Probe(8, True), Probe(8, False), Probe(8, True, gradients=False), Probe(4, True, batch=64))
        watched = wiring
        try:
            for number, probe in enumerate(probes):
                probability = Probability(0.2 + 0.15 * number)
                fixed = tuple((n, probability if n == name else v) for n, v in wiring.fixed)
                dropping = replace(wiring, fixed=fixed, drops=name)
                if number == 0:
                    watched = _watch(twin, dropping, device, generator)
                _compare(twin, dropping, [a.to(device) for a in make_arguments(twin, wiring, probe, generator)], probe)
                if probability.uses:
                    raise Unrecognised("it looks at the value of its probability")
        except Unrecognised:
            continue
        return replace(wiring, drops=name, guards=tuple({*wiring.guards, *watched.guards}),
                       modes=tuple(sorted({*wiring.modes, *watched.modes})))  # fmt: skip
    return wiring


def _watch(twin: nn.Module, wiring: Wiring, device: torch.device, generator: torch.Generator) -> Wiring:
    """The wiring with everything that the forward of ``twin`` reads."""
    by_themselves = [twin.get_submodule(name) for name in (*wiring.inputs, *wiring.by_themselves)]
    evaluated = set(wiring.tensors_of)
    seen: list[Observation] = []
    for training in (True, False):
        twin.train(training)
        leaves = [a.to(device) for a in make_arguments(twin, wiring, Probe(8, training), generator)]
        coefficients = leaves[-1:] if wiring.selects else leaves[wiring.plan.num_inputs :]
        handed = _as_handed_over([_leaf(leaf) for leaf in leaves], wiring)
        buffers = {name: buffer.clone() for name, buffer in twin.named_buffers()}
        try:
            own = partial(_own, twin, wiring, handed)
            seen.append(observe(twin, own, coefficients, evaluated, by_themselves, wiring.method, wiring.drops != ""))
        except Unrecognised:
            raise
        except FOREIGN_ERRORS as error:
            shapes = ", ".join(str(list(leaf.shape)) for leaf in leaves)
            raise NotTaken(f"it does not take arguments of shapes {shapes}: {_first_line(error)}") from None
        for name, buffer in twin.named_buffers():
            buffer.copy_(buffers[name])
    skips_zeros = any(one.reads_coefficients for one in seen) and not wiring.selects
    if skips_zeros and wiring.is_cell and wiring.by_themselves:
        raise Unrecognised("it looks at the values of its coefficients, and some of its candidates are foreign")
    if any(one.reads_shapes for one in seen) and not skips_zeros:
        _require_same_operations(twin, wiring, generator)
    guards = {str(guard): guard for one in seen for guard in one.guards}
    modes = {name for one in seen for name in one.modes}
    return replace(wiring, skips_zeros=skips_zeros, guards=tuple(guards.values()), modes=tuple(sorted(modes)))


def _require_same_operations(twin: nn.Module, wiring: Wiring, generator: torch.Generator) -> None:
    """Refuse a forward that does something else for many images or large ones, found without computing anything."""
    if wiring.by_themselves:
        return  # they may do as they like
    meta = copy.deepcopy(twin).to("meta").train()
    found = []
    for batch, size in _SHAPES:
        leaves = make_arguments(twin, wiring, Probe(8, training=True), generator)
        maps, rest = leaves[: wiring.plan.num_inputs], leaves[wiring.plan.num_inputs :]
        maps = [
            x.new_empty(batch, x.shape[1], x.shape[2] * size // 8, x.shape[3] * size // 8, device="meta") for x in maps
        ]
        handed = _as_handed_over([*maps, *(leaf.to("meta") for leaf in rest)], wiring)
        try:
            found.append(operations(partial(_own, meta, wiring, handed)))
        except (*FOREIGN_ERRORS, NotImplementedError):
            return  # it cannot run without values
    for (batch, size), names in zip(_SHAPES, found, strict=True):
        if names != found[0]:
            raise Unrecognised(f"its forward does something else for {batch} images of {size}x{size} than for 2 of 8x8")


def _own(twin: nn.Module, wiring: Wiring, handed: Sequence[object]) -> object:
    return getattr(type(twin), wiring.method)(twin, *handed)


def _leaf(argument: Tensor) -> Tensor:
    return argument.requires_grad_(argument.is_floating_point())


def _compare(twin: nn.Module, wiring: Wiring, arguments: Sequence[Tensor], probe: Probe) -> Wiring:
    twin.train(probe.training)
    try:
        expected = _run(partial(_own, twin, wiring), twin, wiring, arguments, probe)
    except Unrecognised:
        raise
    except FOREIGN_ERRORS as error:
        if probe.pattern is not None and _run_engine(twin, wiring, arguments, probe) is None:
            return wiring  # nothing is left to add up; its own forward runs then, and fails as before
        if probe.pattern is not None and wiring.skips_zeros:
            raise NotTaken(f"its own forward fails and the engine does not: {_first_line(error)}, {_LOOKS}") from None
        shapes = ", ".join(str(list(argument.shape)) for argument in arguments)
        raise NotTaken(f"it does not take arguments of shapes {shapes}: {_first_line(error)}") from None
    output = expected["its output"]
    assert output is not None
    if probe.pattern is None:
        wiring = replace(wiring, num_outputs=max(1, output.shape[1] // wiring.plan.channels))
    ours = _run_engine(twin, wiring, arguments, probe)
    if ours is None:
        return wiring
    buffers = {name: value for name, value in expected.items() if name.startswith(_BUFFER)}
    if probe.training and probe.pattern is None and _difference(buffers, ours) is not None:
        twice = replace(wiring, updates=2)
        again = _run_engine(twin, twice, arguments, probe)
        if again is not None and _difference(buffers, again) is None:
            wiring, ours = twice, again
    difference = _difference(expected, ours, wiring.may_round)
    if difference is not None:
        zeros = f", {_LOOKS}" if wiring.skips_zeros else ""
        raise Unrecognised(f"{difference}, in {'training' if probe.training else 'eval'} mode{zeros}")
    mine = ours["its output"]
    turns = output.is_contiguous() and mine is not None and not mine.is_contiguous()
    return replace(wiring, changes_layout=wiring.changes_layout or turns)


def _run_engine(
    twin: nn.Module, wiring: Wiring, arguments: Sequence[Tensor], probe: Probe
) -> dict[str, Tensor | None] | None:
    """What the engine returns and leaves behind; ``None`` if it would let the module's own forward run."""
    found = find_modules(twin, wiring)

    class _Declined(Exception):
        pass

    def forward(handed: Sequence[object]) -> Tensor:
        drop = dict(wiring.fixed).get(wiring.drops, 0.0) if probe.training else 0.0
        result = evaluate(twin, wiring, found, handed[: len(wiring.arguments)], float.__float__(drop))  # type: ignore[arg-type]
        if result is None:
            raise _Declined
        return result

    try:
        return _run(forward, twin, wiring, arguments, probe)
    except _Declined:
        return None
    except (RuntimeError, ValueError) as error:
        raise Unrecognised(f"the engine does not take what its forward takes: {_first_line(error)}") from None


def _run(
    forward: Callable[[Sequence[object]], object],
    twin: nn.Module,
    wiring: Wiring,
    arguments: Sequence[Tensor],
    probe: Probe,
) -> dict[str, Tensor | None]:
    """Everything that an evaluation returns or leaves behind, by name; the buffers of ``twin`` are as before.

    ``None`` stands for a gradient that is absent, which is not one of zeros.
    """
    buffers = dict(twin.named_buffers())
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    leaves = [_leaf(argument.clone()) for argument in arguments]
    handed = [leaf.clone() for leaf in leaves]  # no leaves, so that a forward may write into them, as in a network
    torch.manual_seed(0)  # what runs beside the engine may draw
    try:
        with torch.set_grad_enabled(probe.gradients):
            output = forward(_as_handed_over(handed, wiring))
        if not isinstance(output, Tensor) or output.dim() != 4:
            raise TypeError(f"it returns {type(output).__name__}, not images")
        if not all(map(torch.equal, handed, leaves)):
            raise Unrecognised("its forward writes into its arguments")
        parameters = dict(twin.named_parameters())
        variables = {name: leaf for name, leaf in zip(wiring.arguments, leaves, strict=True) if leaf.requires_grad}
        variables |= parameters
        result: dict[str, Tensor | None] = {"its output": output.detach()}
        on_gpu = output.device.type == "cuda"
        result[_DRAWN] = torch.cuda.get_rng_state(output.device) if on_gpu else torch.get_rng_state()
        if probe.gradients:
            # Squared, so that no gradient is a sum over a normalised map, which is zero. No sine here: MKL computes the
            # first one of a process to eight digits if two threads ask for it at once (fastnas.seeds)
            ramp = torch.linspace(-1, 2, output.numel(), dtype=output.dtype, device=output.device).reshape(output.shape)
            loss = (ramp * output * output).sum()
            found = torch.autograd.grad(loss, list(variables.values()), allow_unused=True)
            result |= zip([f"the gradient of {name}" for name in variables], found, strict=True)
        return result | {f"{_BUFFER}{name}": buffer.clone() for name, buffer in buffers.items()}
    finally:
        for name, buffer in buffers.items():
            buffer.copy_(before[name])


def _as_handed_over(arguments: list[Tensor], wiring: Wiring) -> list[object]:
    fixed = [value for _, value in wiring.fixed]
    if not wiring.nested:
        return [*arguments, *fixed]
    states = len(wiring.inputs)
    sizes = [len(wiring.plan.entering(target)) for target in range(states, wiring.plan.num_states)]
    return [*arguments[:states], list(arguments[states].split(sizes)), *arguments[states + 1 :], *fixed]


def _difference(
    expected: dict[str, Tensor | None], ours: dict[str, Tensor | None], may_round: Sequence[str] = ()
) -> str | None:
    """The first tensor that differs, in words.

    A weight of what ``may_round`` may have a gradient of rounding errors alone, as a bias before a normalisation has.
    """
    sizes = [x.abs().max().item() for key, x in expected.items() if key != _DRAWN and x is not None and x.numel()]
    largest = max(sizes, default=0.0)
    noisy = tuple(f"the gradient of {name}." for name in may_round)
    for name, value in expected.items():
        mine = ours[name]
        if name == _DRAWN:
            if not torch.equal(value, mine):  # type: ignore[arg-type]
                return "it draws other random numbers than the engine"
            continue
        if value is None or mine is None:
            if value is not mine:
                whose = "the engine gives one and its own forward none" if value is None else "the engine gives none"
                return f"{name}: {whose}"
            continue
        if value.shape != mine.shape:
            return f"{name} has shape {list(value.shape)}, that of the engine {list(mine.shape)}"
        if value.numel() == 0:
            continue
        error, scale = (value - mine).abs().max().item(), value.abs().max().item()
        if noisy and name.startswith(noisy):
            scale = max(scale, 1e-3 * largest)
        if not error <= max(TOLERANCE * scale, ROUNDING * largest):
            return f"{name} differs by {error:.1e} from the engine's, where the largest value is {scale:.1e}"
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def describe_shapes(module: nn.Module) -> tuple[object, ...]:
    """What makes two modules one to the proof: classes, shapes and attributes of all parts, and their names."""
    parts: list[object] = []
    for name, part in module.named_modules():
        held = {
            key: repr(value) if is_plain(value) else id(value)
            for key, value in vars(part).items()
            if key not in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set") and "hook" not in key
        }
        shapes = [(key, tuple(x.shape), x.device) for key, x in part.named_parameters(recurse=False)]
        hooked = any(hook_tables(part))
        buffers = [key for key, _ in part.named_buffers(recurse=False)]
        parts.append((name, type(part), tuple(sorted(held.items(), key=str)), tuple(shapes), tuple(buffers), hooked))
    return tuple(parts)
