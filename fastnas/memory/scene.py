"""A search step as it stands when it needs most memory: on real tensors, or on ones without memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import Function, forward_ad
from torch.utils._pytree import tree_leaves

from fastnas.costs.counts import activation_bytes, num_parameters
from fastnas.data import Batch, ImageData
from fastnas.engine import Run, alpha_gradients, build_stage, make_state, search_step
from fastnas.engine.run import copy_nest, find_stage_borders
from fastnas.engine.step import apply_gradients, outer_eigenvalue
from fastnas.mechanisms.pruning import Alive
from fastnas.methods.method import Method
from fastnas.seeds import torch_seed
from fastnas.spaces.space import Space
from fastnas.supernet.candidates import build_candidate
from fastnas.supernet.mix import Mix
from fastnas.training.config import SearchConfig
from fastnas_kernels.backend import cells_as_on_a_gpu

CPU = torch.device("cpu")
_STEPS = 2  # of an epoch: few, and even, so that no step is one in which the losses are looked at
_APART = 20.0  # between logits of whoever draws: e^-20 is the chance of another candidate than the largest


@dataclass(frozen=True)
class Setup:
    """A search.

    Args:
        space: Where.
        method: How.
        data: On what; only sizes are asked for, no image.
        config: With what numbers. It is planned for one process, whatever its device says.
        typical: Let a method that draws candidates draw, instead of giving it the ones that need most.
    """

    space: Space
    method: Method
    data: ImageData
    config: SearchConfig
    typical: bool = False

    def changed(self, **changes: object) -> "Setup":
        """With other settings in its configuration."""
        return replace(self, config=replace(self.config, **changes))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Moment:
    """When to look.

    Args:
        stage: Of the method.
        epoch: Of the search, in that stage.
    """

    stage: int
    epoch: int


def list_moments(setup: Setup) -> list[Moment]:
    """Where the memory of a step may differ: in each stage its last epoch, and the first one as well if only one of
    them drops anything at random."""
    run = _run_at(setup, Moment(0, 0), nn.Module())
    borders = find_stage_borders(setup.method, setup.config)
    found = []
    for stage in range(len(borders) - 1):
        first, last = borders[stage], borders[stage + 1] - 1
        drops = [_drops(run, epoch) for epoch in (first, last)]
        found += [Moment(stage, last)] + ([Moment(stage, first)] if drops[0] != drops[1] else [])
    return found


def _drops(run: Run, epoch: int) -> bool:
    at = run.progress(epoch)
    return run.method.drop_path(at) > 0 or run.method.skip_dropout(at) > 0


def _run_at(setup: Setup, moment: Moment, supernet: nn.Module, device: torch.device = CPU) -> Run:
    config = replace(setup.config, warmup_epochs=0, device="cpu")
    nothing = (np.arange(0), np.arange(0))
    if not any(True for _ in supernet.parameters()):  # only the schedule is asked for
        return Run(setup.method, setup.data, config, device, nothing, _STEPS, None)  # type: ignore[arg-type]
    state = make_state(supernet, setup.method, config, device)
    state.step, state.stage = moment.epoch * _STEPS, moment.stage
    order = _memory_ranks(setup.space, config.channels // setup.method.partial_channels)
    keeps = setup.method.stages[moment.stage].candidates if moment.stage else None
    if keeps is not None:
        state.alive = {name: _largest(rows, order, keeps) for name, rows in state.alive.items()}
    if draws_candidates(setup.method) and not setup.typical:
        # Nowhere else: coefficients of e^-100 make gradients too small for the fast paths of a processor
        with torch.no_grad():
            for name, logits in state.alpha.items():
                if name.startswith("alpha."):
                    logits.copy_(_APART * torch.tensor(order).to(logits).expand_as(logits))
    return Run(setup.method, setup.data, config, device, nothing, _STEPS, state)


def draws_candidates(method: Method) -> bool:
    """Whether a step runs candidates that are drawn, so that its memory depends on which."""
    return any(draw is not None and draw.turns_off for draw in (method.draw, method.weight_draw))


def _memory_ranks(space: Space, channels: int) -> list[int]:
    """The rank of every primitive by the bytes that it keeps for its gradient, then by its parameters."""

    def cost(name: str) -> tuple[int, int]:
        if name == "none":
            return -1, 0
        # Weights without memory draw their values all the same where torch.compile has been at work
        with torch.device("meta"), torch_seed(0):
            module = build_candidate(space, name, channels, 1, True)
            x = torch.empty(2, channels, 8, 8).to(memory_format=torch.channels_last)
            return activation_bytes(module, x), num_parameters(module)

    costs = [cost(name) for name in space.primitives]
    by_cost = sorted(range(len(costs)), key=costs.__getitem__)
    return [by_cost.index(k) for k in range(len(costs))]


def _largest(rows: Alive, order: Sequence[int], keeps: int) -> Alive:
    def row(alive: tuple[bool, ...]) -> tuple[bool, ...]:
        kept = sorted((k for k, on in enumerate(alive) if on), key=lambda k: -order[k])[:keeps]
        return tuple(k in kept for k in range(len(alive)))

    return tuple(map(row, rows))


@dataclass(frozen=True)
class Scene:
    """A run with its batches, ready to step.

    Args:
        run: The search.
        batches: Of the weights and of alpha.
        on_gpu: Whether tensors without memory are those of a GPU.
    """

    run: Run
    batches: tuple[Batch, Batch]
    on_gpu: bool = False

    @property
    def given(self) -> Mapping[str, list[Tensor]]:
        """What is alive before a step begins, by cause."""
        state = self.run.state
        optimizers = (state.weight_optimizer, state.alpha_optimizer)
        slots = _tensors([list(optimizer.state.values()) for optimizer in optimizers])
        return {
            "weights": list(state.w.values()),
            "alpha": list(state.alpha.values()),
            "optimiser states": slots,
            "snapshots to return to": _tensors(state.snapshots),
            "images": [x for batch in self.batches for x in (batch.images, batch.labels)],
        }

    @property
    def segments(self) -> Sequence[nn.Module]:
        """The stem and the cells of the supernet."""
        return self.run.state.supernet.units  # type: ignore[return-value]

    def phases(self) -> Mapping[str, Callable[[], object]]:
        """What one step consists of, each part by itself: they share nothing that is not in ``given``."""
        run, (for_weights, for_alpha) = self.run, self.batches
        if run.method.update_schedule.joint:
            found: dict[str, Callable[[], object]] = {"joint step": lambda: search_step(run, for_weights, None)}
        else:
            found = {
                "alpha step": lambda: alpha_gradients(run, for_weights, for_alpha),
                "weight step": lambda: search_step(run, for_weights, None),
            }
        if run.method.eigenvalue_every > 0 and not run.method.update_schedule.joint:
            epoch = run.state.step // run.steps
            found["eigenvalue"] = lambda: outer_eigenvalue(run, for_alpha, epoch)
        return {name: _as_on_a_gpu(phase) for name, phase in found.items()} if self.on_gpu else found


def _as_on_a_gpu(phase: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        with cells_as_on_a_gpu():
            return phase()

    return run


def _tensors(nest: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(nest) if isinstance(leaf, Tensor)]


def build_scene(setup: Setup, moment: Moment, device: torch.device = CPU) -> Scene:
    """On real tensors, in the memory of ``device``."""
    return _with_batches(_run_at(setup, moment, _supernet(setup, moment), device), setup)


def build_fake_scene(setup: Setup, moment: Moment, on_gpu: bool = False) -> Scene:
    """On tensors without memory, of the CPU or of a GPU; alpha alone is real, since what it decides is asked for on the
    host."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    run = _run_at(setup, moment, _supernet(setup, moment))
    state = run.state
    for module in list(state.supernet.modules()):
        for name, p in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, nn.Parameter(mode.from_tensor(p.detach())))
    state.w = dict(state.supernet.named_parameters())
    state.weight_optimizer.param_groups[0]["params"] = list(state.w.values())
    state.supernet.register_forward_pre_hook(lambda _, arguments: (arguments[0], _without_memory(arguments[1], mode)))
    with mode:
        return replace(_with_batches(run, setup), on_gpu=on_gpu)


def _supernet(setup: Setup, moment: Moment) -> nn.Module:
    supernet = build_stage(setup.space, setup.method, setup.data, setup.config, moment.stage)
    for module in supernet.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(_as_untracked)
    return supernet


def _as_untracked(module: nn.Module, arguments: object, normalised: Tensor) -> Tensor:
    """Give tangents the dtype of their value: where operations are followed, PyTorch's batch normalisation returns
    float32 ones beside values of bfloat16."""
    value, tangent = forward_ad.unpack_dual(normalised)
    if tangent is None or tangent.dtype == value.dtype:
        return normalised
    return forward_ad.make_dual(value, tangent.to(value.dtype))


def _with_batches(run: Run, setup: Setup) -> Scene:
    state, data, config = run.state, setup.data, setup.config
    # as after the first step: the optimiser has its momentum
    apply_gradients(state.weight_optimizer, state.w, {name: torch.zeros_like(p) for name, p in state.w.items()}, 0.0)

    def batch() -> Batch:
        shape = (config.batch_size, data.channels, *data.resolution)
        labels = data.task.example_targets(config.batch_size, len(data.classes), run.device)
        return Batch(torch.randn(shape, device=run.device), labels)

    if run.method.snapshots:
        state.snapshots = {epoch: copy_nest(state.snapshot()) for epoch in range(run.method.snapshots + 1)}
    return Scene(run, (batch(), batch()))


class _Crossing(Function):
    """Between real tensors and ones without memory, both ways, to any order; values do not matter."""

    @staticmethod
    def forward(ctx, x: Tensor, mode: FakeTensorMode, to_fake: bool) -> Tensor:
        ctx.mode, ctx.to_fake = mode, to_fake
        if to_fake:
            return mode.from_tensor(x.detach())
        return torch.zeros(x.shape, dtype=x.dtype)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _Crossing.apply(dy, ctx.mode, not ctx.to_fake), None, None  # type: ignore[return-value]

    @staticmethod
    def jvp(ctx, tx: Tensor, *_: None) -> Tensor:  # type: ignore[override]
        return _Crossing.apply(tx, ctx.mode, ctx.to_fake)  # type: ignore[return-value]


def _without_memory(mix: Mix, mode: FakeTensorMode) -> Mix:
    """The coefficients as tensors without memory."""

    def move(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: _Crossing.apply(x, mode, True) for name, x in tensors.items()}  # type: ignore[misc]

    return mix._replace(candidates=move(mix.candidates), edges=move(mix.edges), offsets=move(mix.offsets))
