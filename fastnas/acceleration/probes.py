"""What a module and the engine are compared on: a copy with generic weights, images and coefficients."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastnas.acceleration.guards import hook_tables
from fastnas.acceleration.shapes import channels_before, find_input_stride
from fastnas.acceleration.wiring import Wiring

_NUM_PATTERNS = 9


@dataclass(frozen=True)
class Probe:
    """One comparison: how large the maps are, in which mode, and what the coefficients look like."""

    size: int
    training: bool
    pattern: int | None = None
    gradients: bool = True
    batch: int = 0


def list_probes(wiring: Wiring) -> Iterator[Probe]:
    yield Probe(8, training=True)
    yield Probe(8, training=False)
    yield Probe(7, training=True)
    for training in (True, False):
        yield Probe(8, training, gradients=False)
    step = 3 if len(wiring.edges) >= 5 else 1  # edges begin with different patterns, so that a cell needs fewer turns
    turns = range(2 * _width(wiring)) if wiring.selects else range(0, _NUM_PATTERNS, step)
    for turn in turns:
        yield Probe(8, training=True, pattern=turn)


def _width(wiring: Wiring) -> int:
    return max(len(edge.primitives) for edge in wiring.edges)


def make_arguments(module: nn.Module, wiring: Wiring, probe: Probe, generator: torch.Generator) -> list[Tensor]:
    plan, width = wiring.plan, _width(wiring)
    batch = probe.batch or (2 if probe.size % 2 == 0 else 3)

    def images(channels: int, side: int) -> Tensor:
        x = torch.randn(batch, channels, side, side, dtype=torch.float64, generator=generator)
        return x * torch.logspace(0, 2, batch, dtype=torch.float64).reshape(-1, 1, 1, 1) if probe.pattern else x

    if wiring.inputs:
        maps = []
        for name in wiring.inputs:
            prepare = module.get_submodule(name)
            maps.append(images(channels_before(prepare, plan.channels), probe.size * find_input_stride(prepare)))
    else:
        maps = [images(plan.channels, probe.size)]
    if wiring.selects:  # whose coefficients are not looked at: every candidate is chosen on every edge at least once
        rows = torch.randn(len(plan.edges), width, dtype=torch.float64, generator=generator)
        chosen = torch.randint(width, (len(plan.edges),), generator=generator)
        if probe.pattern is not None and probe.pattern < width:
            chosen = (torch.arange(len(plan.edges)) + probe.pattern) % width
        return [*maps, rows, chosen[:, None]]
    rows = torch.stack([_row(probe, edge, width, generator) for edge in range(len(plan.edges))])
    if not wiring.is_cell:
        return [*maps, rows[0]]
    beta = torch.randn(len(plan.edges), dtype=torch.float64, generator=generator)
    if probe.pattern is not None:
        beta[probe.pattern % len(beta)] = 0.0
    return [*maps, rows, *([beta] if wiring.has_shares else [])]


def _row(probe: Probe, edge: int, width: int, generator: torch.Generator) -> Tensor:
    """Coefficients of an edge: dense ones, or those that sampling, projecting and pruning make."""
    normal = torch.randn(width, dtype=torch.float64, generator=generator)
    if not probe.training:
        return normal.softmax(0)
    if probe.pattern is None:
        return normal
    chosen = torch.arange(width) == (edge + probe.pattern) % width
    magnitudes = 10.0 ** (16 * torch.rand(width, dtype=torch.float64, generator=generator) - 12)
    patterns = (
        chosen.double(),  # one path
        torch.where(chosen, 0.0, normal),  # one is pruned
        torch.zeros(width, dtype=torch.float64),  # the edge is pruned
        torch.where(chosen, normal, 0.0),
        normal.softmax(0),
        magnitudes * normal.sign(),
        torch.where(torch.arange(width) % 2 == edge % 2, normal, 0.0),  # every other one
        torch.where(chosen | chosen.roll(1), 0.5, 0.0).double(),  # two paths
        -normal.abs(),
    )
    return patterns[(edge + probe.pattern) % _NUM_PATTERNS]


def make_twin(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy in float64 whose weights and running statistics are generic, whatever those of ``module`` are."""
    twin = copy.deepcopy(module).double()
    with torch.no_grad():
        for parameter in twin.parameters():
            fan_in = math.prod(parameter.shape[1:])  # keeps values near one also where nothing normalises by the batch
            values = torch.randn(parameter.shape, dtype=torch.float64, generator=generator) / math.sqrt(fan_in)
            parameter.copy_(values).requires_grad_()
        for part in twin.modules():
            for hooks in hook_tables(part):
                hooks.clear()  # those of the user are not to fire here
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
                part.running_mean.copy_(torch.randn(part.num_features, dtype=torch.float64, generator=generator))
                part.running_var.copy_(torch.rand(part.num_features, dtype=torch.float64, generator=generator) + 0.5)  # type: ignore[union-attr]
    return twin
