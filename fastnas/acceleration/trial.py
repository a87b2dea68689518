"""The proof before a replacement: a copy of the module and the engine, side by side on small random inputs."""

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from fastnas.acceleration.evaluation import evaluate, find_parts
from fastnas.acceleration.primitives import Unrecognised
from fastnas.acceleration.wiring import FOREIGN_ERRORS, Wiring, channels_before, stride_of_input

TOLERANCE = 1e-10
"""Relative to the largest value of each tensor, in float64: rounding differs by 1e-13, another computation by far
more."""
_SIZES = (8, 7)
_BUFFER = "its buffer "


class NotTaken(Unrecognised):
    """The module itself fails on the inputs that the wiring expects it to take."""


def prove(module: nn.Module, wiring: Wiring) -> Wiring:
    """The wiring, completed by what only running the module tells, if the engine then equals the module.

    Both are evaluated in float64 on a copy with random weights and running statistics, in training and in eval mode,
    and in training mode on odd maps if the module takes them. Compared are the output, the gradients of inputs,
    coefficients and weights, and all buffers.

    Raises:
        Unrecognised: If they differ, naming the first thing that does.
    """
    tensors = [*module.parameters(), *module.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    if device.type == "meta":
        raise Unrecognised("its tensors are on the meta device, where nothing can be tried")
    autocast_off = torch.autocast(device.type, enabled=False) if device.type in ("cpu", "cuda") else nullcontext()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), autocast_off, torch.enable_grad():
        generator = torch.Generator().manual_seed(0)
        try:
            twin = _twin(module, generator)
        except FOREIGN_ERRORS as error:
            raise Unrecognised(f"it cannot be copied: {_first_line(error)}") from None
        for size in _SIZES:
            arguments = [argument.to(device) for argument in _arguments(twin, wiring, size, generator)]
            try:
                for training in (True, False) if size % 2 == 0 else (True,):
                    wiring = _prove_in_mode(twin, wiring, arguments, training)
            except NotTaken:
                if size % 2 == 0:
                    raise
    return wiring


def _prove_in_mode(twin: nn.Module, wiring: Wiring, arguments: Sequence[Tensor], training: bool) -> Wiring:
    twin.train(training)
    try:
        expected = _run(lambda handed: type(twin).forward(twin, *handed), twin, wiring, arguments)
    except FOREIGN_ERRORS as error:
        shapes = ", ".join(str(list(argument.shape)) for argument in arguments)
        raise NotTaken(f"it does not take arguments of shapes {shapes}: {_first_line(error)}") from None
    wiring = replace(wiring, num_outputs=max(1, expected["its output"].shape[1] // wiring.plan.channels))
    ours = _run_engine(twin, wiring, arguments)
    buffers = {name: value for name, value in expected.items() if name.startswith(_BUFFER)}
    if training and _difference(buffers, ours) is not None:
        twice = replace(wiring, updates=2)
        again = _run_engine(twin, twice, arguments)
        if _difference(buffers, again) is None:
            wiring, ours = twice, again
    difference = _difference(expected, ours)
    if difference is not None:
        raise Unrecognised(f"{difference}, in {'training' if training else 'eval'} mode")
    return wiring


def _run_engine(twin: nn.Module, wiring: Wiring, arguments: Sequence[Tensor]) -> dict[str, Tensor]:
    parts = find_parts(twin, wiring)
    try:
        return _run(lambda handed: evaluate(twin, wiring, parts, handed), twin, wiring, arguments)
    except (RuntimeError, ValueError) as error:
        raise Unrecognised(f"the engine does not take what its forward takes: {_first_line(error)}") from None


def _run(
    forward: Callable[[Sequence[object]], Tensor], twin: nn.Module, wiring: Wiring, arguments: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Everything that an evaluation returns or leaves behind, by name; the buffers of ``twin`` are as before."""
    buffers = dict(twin.named_buffers())
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    leaves = [argument.clone().requires_grad_() for argument in arguments]
    try:
        output = forward(_as_handed_over(leaves, wiring))
        if not isinstance(output, Tensor) or output.dim() != 4:
            raise TypeError(f"it returns {type(output).__name__}, not images")
        parameters = dict(twin.named_parameters())
        # Squared, so that no gradient is a sum over a normalised map, which is zero
        wave = torch.linspace(-1, 1, output.numel(), dtype=output.dtype, device=output.device).reshape(output.shape)
        variables = [*leaves, *parameters.values()]
        loss = (wave.sin() * output * output).sum()
        gradients = torch.autograd.grad(loss, variables, allow_unused=True, materialize_grads=True)
        after = {f"{_BUFFER}{name}": buffer.clone() for name, buffer in buffers.items()}
    finally:
        for name, buffer in buffers.items():
            buffer.copy_(before[name])
    names = [f"the gradient of {name}" for name in (*wiring.arguments, *parameters)]
    return {"its output": output.detach()} | dict(zip(names, gradients, strict=True)) | after


def _as_handed_over(arguments: list[Tensor], wiring: Wiring) -> list[object]:
    if not wiring.nested:
        return list(arguments)
    states = len(wiring.inputs)
    sizes = [len(wiring.plan.entering(target)) for target in range(states, wiring.plan.num_states)]
    return [*arguments[:states], list(arguments[states].split(sizes)), *arguments[states + 1 :]]


def _arguments(module: nn.Module, wiring: Wiring, size: int, generator: torch.Generator) -> list[Tensor]:
    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    plan, width = wiring.plan, max(len(edge.primitives) for edge in wiring.edges)
    if not wiring.is_cell:
        return [random(2, plan.channels, size, size), random(width)]
    states = []
    for name in wiring.inputs:
        prepare = module.get_submodule(name)
        side = size * stride_of_input(prepare)
        states.append(random(2, channels_before(prepare, plan.channels), side, side))
    beta = [random(len(plan.edges))] if len(wiring.arguments) == 4 else []
    return [*states, random(len(plan.edges), width), *beta]


def _twin(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy in float64 whose weights and running statistics are generic, whatever those of ``module`` are."""
    twin = copy.deepcopy(module).double()
    with torch.no_grad():
        for parameter in twin.parameters():
            fan_in = math.prod(parameter.shape[1:])  # keeps values near one also where nothing normalises by the batch
            values = torch.randn(parameter.shape, dtype=torch.float64, generator=generator) / math.sqrt(fan_in)
            parameter.copy_(values).requires_grad_()
        for part in twin.modules():
            for hooks in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks):
                hooks.clear()  # those of the user are not to fire here
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
                part.running_mean.copy_(torch.randn(part.num_features, dtype=torch.float64, generator=generator))
                part.running_var.copy_(torch.rand(part.num_features, dtype=torch.float64, generator=generator) + 0.5)  # type: ignore[union-attr]
    return twin


def _difference(expected: dict[str, Tensor], ours: dict[str, Tensor]) -> str | None:
    """The first tensor that differs, in words."""
    for name, value in expected.items():
        mine = ours[name]
        if value.shape != mine.shape:
            return f"{name} has shape {list(value.shape)}, that of the engine {list(mine.shape)}"
        if value.numel() == 0:
            continue
        error, scale = (value - mine).abs().max().item(), value.abs().max().item()
        if not error <= TOLERANCE * scale:
            return f"{name} differs by {error:.1e} from the engine's, where the largest value is {scale:.1e}"
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
