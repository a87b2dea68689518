"""The proof before a replacement: a copy of the module and the engine, side by side on small random inputs."""

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fastnas.dropin.evaluation import evaluate, find_parts
from fastnas.dropin.primitives import Unrecognised
from fastnas.dropin.wiring import FOREIGN_ERRORS, Wiring, channels_before, stride_of_input

TOLERANCE = 1e-10
"""Relative to the largest value of each tensor, in float64: rounding differs by 1e-13, another computation by far
more."""
_SIZES = (8, 7)


class NotTaken(Unrecognised):
    """The module itself fails on the inputs that the wiring expects it to take."""


@dataclass(frozen=True)
class _Run:
    """Everything that an evaluation returns or leaves behind."""

    output: Tensor
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]


def prove(module: nn.Module, wiring: Wiring) -> Wiring:
    """The wiring, completed by what only running the module tells, if the engine then equals the module.

    Both are evaluated in float64 on copies with random weights and running statistics, in training and in eval mode,
    on even maps, and on odd ones if the module takes them. Compared are the output, the gradients of inputs,
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
            pristine = _randomised(module, generator)
        except FOREIGN_ERRORS as error:
            raise Unrecognised(f"it cannot be copied: {_first_line(error)}") from None
        for size in _SIZES:
            arguments = [argument.to(device) for argument in _arguments(pristine, wiring, size, generator)]
            try:
                wiring = _prove_on(pristine, wiring, arguments)
            except NotTaken:
                if size % 2 == 0:
                    raise
    return wiring


def _prove_on(pristine: nn.Module, wiring: Wiring, arguments: Sequence[Tensor]) -> Wiring:
    for training in (True, False):
        pristine.train(training)

        def original(module: nn.Module, handed: Sequence[object]) -> Tensor:
            return type(module).forward(module, *handed)

        try:
            expected = _run(original, pristine, wiring, arguments)
        except FOREIGN_ERRORS as error:
            shapes = ", ".join(str(list(argument.shape)) for argument in arguments)
            raise NotTaken(f"it does not take arguments of shapes {shapes}: {_first_line(error)}") from None
        wiring = replace(wiring, num_outputs=max(1, expected.output.shape[1] // wiring.plan.channels))
        ours = _run_engine(pristine, wiring, arguments)
        if training and _difference(expected.buffers, ours.buffers) is not None:
            twice = replace(wiring, updates=2)
            again = _run_engine(pristine, twice, arguments)
            if _difference(expected.buffers, again.buffers) is None:
                wiring, ours = twice, again
        named = [({"the output": run.output} | run.gradients | run.buffers) for run in (expected, ours)]
        difference = _difference(*named)
        if difference is not None:
            raise Unrecognised(f"{difference} in {'training' if training else 'eval'} mode")
    return wiring


def _run_engine(pristine: nn.Module, wiring: Wiring, arguments: Sequence[Tensor]) -> _Run:
    def engine(module: nn.Module, handed: Sequence[object]) -> Tensor:
        return evaluate(module, wiring, find_parts(module, wiring), handed)

    try:
        return _run(engine, pristine, wiring, arguments)
    except (RuntimeError, ValueError) as error:
        raise Unrecognised(f"the engine takes its arguments otherwise: {_first_line(error)}") from None


def _run(
    forward: Callable[[nn.Module, Sequence[object]], Tensor],
    pristine: nn.Module,
    wiring: Wiring,
    arguments: Sequence[Tensor],
) -> _Run:
    module = copy.deepcopy(pristine)
    leaves = [argument.clone().requires_grad_() for argument in arguments]
    output = forward(module, _as_handed_over(leaves, wiring))
    if not isinstance(output, Tensor) or output.dim() != 4:
        raise TypeError(f"it returns {type(output).__name__}, not images")
    dy = torch.linspace(-1, 1, output.numel(), dtype=output.dtype, device=output.device).reshape(output.shape).sin()
    parameters = dict(module.named_parameters())
    names = [f"the gradient of {name}" for name in (*wiring.arguments, *parameters)]
    # Squared, so that no gradient is a sum over a normalised map, which is zero
    gradients = torch.autograd.grad((dy * output * output).sum(), [*leaves, *parameters.values()], materialize_grads=True, allow_unused=True)
    return _Run(output.detach(), dict(zip(names, gradients, strict=True)), dict(module.named_buffers()))


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


def _randomised(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy in float64 whose weights and running statistics are generic, whatever those of ``module`` are."""
    twin = copy.deepcopy(module).double()
    with torch.no_grad():
        for parameter in twin.parameters():
            fan_in = math.prod(parameter.shape[1:])  # keeps values near one also where nothing normalises by the batch
            values = torch.randn(parameter.shape, dtype=torch.float64, generator=generator) / math.sqrt(fan_in)
            parameter.copy_(values).requires_grad_()
        for part in twin.modules():
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
