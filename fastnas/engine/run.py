"""What a search is made of: what stays the same, and the one state that does not."""

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastnas.bilevel.problem import SgdStep
from fastnas.data import (
    BrokenImages,
    Halves,
    ImageData,
    class_balanced_fraction,
    digest_data,
    divide,
    read_index,
    split_halves,
)
from fastnas.engine.coefficients import Sampler
from fastnas.engine.drawn import stays_on_device
from fastnas.engine.fit import require_fit
from fastnas.fingerprint import fingerprint
from fastnas.mechanisms.alpha_optimizer import AlphaSettings
from fastnas.mechanisms.pruning import Alive
from fastnas.mechanisms.schedules import LEARNING_RATES, LearningRate, Progress, Rate, cosine, warm_up
from fastnas.methods.method import Method
from fastnas.ranks import ALONE, Ranks
from fastnas.seeds import EpochSeeds, stream, torch_seed
from fastnas.spaces.space import Space
from fastnas.supernet.architecture import draw_logits
from fastnas.supernet.dense import fit_head
from fastnas.supernet.supernets import build_supernet
from fastnas.training.config import SearchConfig
from fastnas.training.numerics import Losses, find_class_weights
from fastnas_kernels.check import invalid
from fastnas_kernels.normalisation import synchronised_statistics

PUBLISHED_ALPHA_LR = 3e-4  # for a state whose number of steps nobody knows


@dataclass
class SearchState:
    """All that changes during a search, and all that a checkpoint holds but ``seeds``, which graphs of steps read."""

    supernet: nn.Module
    w: dict[str, nn.Parameter]
    alpha: dict[str, nn.Parameter]
    weight_optimizer: torch.optim.Optimizer
    alpha_optimizer: torch.optim.Optimizer
    alive: dict[str, Alive]
    stage: int = 0
    step: int = 0
    frozen: list[str] = field(default_factory=list)
    agreement: dict[str, tuple[float, int]] = field(default_factory=dict)
    losses: Losses = field(default_factory=Losses)
    snapshots: dict[int, dict[str, Any]] = field(default_factory=dict)
    roll_backs: list[dict[str, Any]] = field(default_factory=list)
    seeds: EpochSeeds | None = None

    def state_dict(self) -> dict[str, Any]:
        return {**self.snapshot(), "snapshots": self.snapshots, "roll_backs": self.roll_backs}

    def snapshot(self) -> dict[str, Any]:
        """What a return to this moment needs; it shares its tensors with the state."""
        return {
            "w": {name: p.detach() for name, p in self.w.items()},
            "alpha": {name: a.detach() for name, a in self.alpha.items()},
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "alpha_optimizer": self.alpha_optimizer.state_dict(),
            "alive": {name: [list(row) for row in rows] for name, rows in self.alive.items()},
            "stage": self.stage,
            "step": self.step,
            "losses": asdict(self.losses),
            "frozen": list(self.frozen),
            "agreement": {name: list(pair) for name, pair in self.agreement.items()},
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take over what was saved in the same stage."""
        assert saved["stage"] == self.stage
        with torch.no_grad():
            for ours, theirs in ((self.w, saved["w"]), (self.alpha, saved["alpha"])):
                for name, tensor in ours.items():
                    if tensor.shape != theirs[name].shape:  # copy_ would spread it
                        raise ValueError(f"{name} of shape {list(theirs[name].shape)} for {list(tensor.shape)}")
                    tensor.copy_(theirs[name])
        self.weight_optimizer.load_state_dict(copy_nest(saved["weight_optimizer"]))
        self.alpha_optimizer.load_state_dict(copy_nest(saved["alpha_optimizer"]))
        self.alive = {name: tuple(map(tuple, rows)) for name, rows in saved["alive"].items()}
        self.step = saved["step"]
        self.losses = Losses(**saved["losses"])
        self.frozen = list(saved.get("frozen", ()))
        self.agreement = {name: (pair[0], pair[1]) for name, pair in saved.get("agreement", {}).items()}
        self.snapshots = saved.get("snapshots", self.snapshots)
        self.roll_backs = saved.get("roll_backs", self.roll_backs)


def copy_nest(nest: Any) -> Any:
    """A nest of dictionaries and lists in which every tensor is a copy."""
    if isinstance(nest, Tensor):
        return nest.clone()
    if isinstance(nest, Mapping):
        return {key: copy_nest(value) for key, value in nest.items()}
    return [copy_nest(value) for value in nest] if isinstance(nest, list) else nest


def to_lists(tensors: Mapping[str, Tensor]) -> dict[str, list[list[float]]]:
    """Tensors as lists."""
    return {name: x.detach().cpu().tolist() for name, x in tensors.items()}


def find_weight_rate(
    config: SearchConfig,
    epoch: int,
    schedule: LearningRate = cosine,
    epochs: int | None = None,
    losses: Sequence[float] = (),
    warmup: int = 0,
) -> float:
    """The learning rate of the weights in ``epoch`` of a stage of ``epochs``, warm-up included.

    Args:
        config: The rates; its own schedule, if it names one, takes the place of ``schedule``.
        epoch: Epoch of the stage, from zero.
        schedule: The method's.
        epochs: Of the stage; those of the search if not given.
        losses: Mean training losses of the epochs of the stage so far.
        warmup: Leading epochs of the stage in which alpha waits.
    """
    if config.weight_schedule is not None:
        schedule = LEARNING_RATES[config.weight_schedule]
    at = Progress(epoch, config.epochs if epochs is None else epochs, warmup)
    rate = schedule(Rate(config.weight_lr, config.weight_lr_final, at, losses))
    return warm_up(rate, config.weight_lr, epoch, config.weight_lr_warmup_epochs)


@dataclass(frozen=True)
class Run:
    """What stays the same during one search, and the state that does not.

    Args:
        method: What to do.
        data: The images.
        config: Size, budget and optimisers.
        device: Where to run.
        halves: Indices of the training images for the weights and for alpha.
        steps: Steps of an epoch.
        state: All that changes.
        ranks: The processes that run it together.
        broken: Counts images that cannot be read.
    """

    method: Method
    data: ImageData
    config: SearchConfig
    device: torch.device
    halves: tuple[np.ndarray, np.ndarray]
    steps: int
    state: SearchState
    ranks: Ranks = ALONE
    broken: BrokenImages = field(default_factory=BrokenImages)

    @property
    def space(self) -> Space:
        return self.state.supernet.space  # type: ignore[return-value]

    @property
    def total_steps(self) -> int:
        return self.steps * self.config.epochs

    @property
    def at(self) -> Progress:
        """Where the epoch of the next step stands."""
        return self.progress(self.state.step // self.steps)

    def progress(self, epoch: int) -> Progress:
        """Where ``epoch`` of the search stands in its stage."""
        borders = find_stage_borders(self.method, self.config)
        stage = next(i for i, end in enumerate(borders[1:]) if epoch < end or i == len(borders) - 2)
        epochs = borders[stage + 1] - borders[stage]
        return Progress(epoch - borders[stage], epochs, count_warmup_epochs(self.method, self.config, epochs), stage)

    @property
    def tau(self) -> float:
        return self.method.tau(self.at)

    def sampler(self, phase: str) -> Sampler:
        """The coefficients of the next step in ``phase``, which is ``"weights"`` or ``"alpha"``."""
        at, consumer, seeds = self.at, f"coefficients of {phase}", self.state.seeds
        seed = (
            seeds.stream(self.config.seed, consumer) if seeds else stream(self.config.seed, consumer, self.state.step)
        )
        noise = (self.method.drop_path(at), self.method.skip_dropout(at))
        tau = self.method.tau(at)
        skip, for_weights = self.method.auxiliary_skip(at), phase == "weights"
        on_device = stays_on_device(self.state.supernet, self.method, self.device, any(noise))
        return Sampler(
            self.method, self.space, self.state.alive, tau, seed, noise, skip, for_weights, self.ranks.index, on_device
        )

    def statistics(self) -> AbstractContextManager:
        """Inside the block, batches are normalised as the configuration says where several processes share them."""
        together = self.ranks.size > 1 and self.config.synchronise_statistics
        return synchronised_statistics() if together else nullcontext()

    @property
    def inner_step(self) -> SgdStep:
        """The step that the weight optimiser is about to make, but for its clipping."""
        optimizer = self.state.weight_optimizer
        group = optimizer.param_groups[0]
        velocities = {name: optimizer.state[p].get("momentum_buffer") for name, p in self.state.w.items()}
        return SgdStep(
            group["lr"],
            group["momentum"],
            group["weight_decay"],
            group["nesterov"],
            {name: velocity for name, velocity in velocities.items() if velocity is not None},
        )

    @cached_property
    def has_tied_weights(self) -> bool:
        """Whether the supernet has a weight in several places; to look for them in every step would take a tenth of the
        time of a small one."""
        return len(list(self.state.supernet.named_parameters(remove_duplicate=False))) > len(self.state.w)

    @cached_property
    def evaluation_order(self) -> np.ndarray:
        """The half for alpha, shuffled: data sets list their images class by class, and a batch of one class has
        statistics that normalise the class away."""
        rng = np.random.default_rng(stream(self.config.seed, "evaluation"))
        return rng.permutation(self.halves[1])

    @cached_property
    def class_weights(self) -> Tensor | None:
        """Of the classes in the loss, ``[C]``; ``None`` where all are the same."""
        return self.held_out_weights if self.config.class_weights == "balanced" else None

    @cached_property
    def held_out_weights(self) -> Tensor | None:
        """Of the classes in the loss of an evaluation, whose batches no sampling balances."""
        labels = self.data.train.labels[np.union1d(*self.halves)]
        return find_class_weights(self.config, labels, len(self.data.classes), self.device)

    @cached_property
    def data_digest(self) -> str:
        """That of the images, see :func:`fastnas.data.digest_data`."""
        return digest_data(self.data)

    @property
    def identity(self) -> str:
        """What must be equal for a checkpoint to fit: all but where, how fast and in how much memory it runs."""
        numbers = asdict(replace(self.config, device="cpu", workers=0, checkpoint_steps=0, max_broken=0, index=None))
        del numbers["recompute"], numbers["graph"]  # they change no number, and earlier checkpoints do not know them
        del numbers["class_weights"], numbers["sampling"]
        numbers |= self.config.balancing
        del numbers["minutes"], numbers["evaluation_images"]  # what they decide stands beside them; records alone
        numbers["index"] = None if self.config.index is None else fingerprint([half.tolist() for half in self.halves])
        variant = fingerprint((self.method, self.space))
        data = [self.data.identity, self.data_digest]
        return json.dumps([self.method.name, self.space.name, variant, *data, numbers])


def find_stage_borders(method: Method, config: SearchConfig) -> list[int]:
    """The first epoch of every stage, and the number of epochs."""
    count = len(method.stages)
    if config.epochs < count:
        rule = f"epochs must be at least the {count} stages of {method.name}"
        raise invalid("search", rule, config.epochs)
    return [config.epochs * i // count for i in range(count + 1)]


def count_warmup_epochs(method: Method, config: SearchConfig, epochs: int) -> int:
    """Leading epochs of a stage of ``epochs`` in which alpha waits."""
    return round(method.warmup_share * epochs) if config.warmup_epochs is None else config.warmup_epochs


def require_stages(method: Method, config: SearchConfig) -> None:
    """Raise unless every stage of the method has epochs in which alpha moves."""
    borders = find_stage_borders(method, config)
    shortest = min(end - start for start, end in pairwise(borders))
    waits = count_warmup_epochs(method, config, shortest)
    if waits >= shortest:
        rule = f"warmup_epochs must be less than the {shortest} epochs of the shortest stage of {method.name}"
        raise invalid("search", rule, waits, "A stage that is all warm-up never moves alpha.")


def build_stage(space: Space, method: Method, data: ImageData, config: SearchConfig, stage: int) -> nn.Module:
    """The supernet that ``stage`` begins with."""
    require_fit(method, space)
    position = (stage,) if stage else ()
    with torch_seed(stream(config.seed, "weights", *position)):
        supernet = build_supernet(
            space,
            len(data.classes),
            config.channels,
            method.stages[stage].deepen(config.cells),
            method.partial_channels,
            data.channels,
            data.large,
            config.recompute,
        )
    return fit_head(supernet, data.task, space, data.resolution, data.large)


def make_state(supernet: nn.Module, method: Method, config: SearchConfig, device: torch.device) -> SearchState:
    """The state of a search that is about to begin with ``supernet``."""
    supernet = supernet.to(device).train()
    space: Space = supernet.space  # type: ignore[assignment]
    w = dict(supernet.named_parameters())
    beta, inputs = method.edge_normalisation, method.joint_inputs
    alpha = draw_logits(space, beta, config.seed, device, method.alpha_init_mean, method.alpha_init_std, inputs)
    assert not {id(p) for p in w.values()} & {id(a) for a in alpha.values()}, "alpha is no network weight"
    weight_optimizer = torch.optim.SGD(
        w.values(),
        config.weight_lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay * method.weight_decay_factor,
        foreach=True,  # on a CPU, too: the same numbers without a loop in Python over a thousand small weights
    )
    betas = (config.alpha_beta1, config.alpha_beta2)
    alpha_lr = PUBLISHED_ALPHA_LR if config.alpha_lr is None else config.alpha_lr
    settings = AlphaSettings(alpha_lr, betas, config.alpha_weight_decay, config.momentum)
    alpha_optimizer = method.alpha_optimizer(list(alpha.values()), settings)
    alive = {cell_type: space.alive(cell_type) for cell_type in space.cell_types}
    return SearchState(supernet, w, alpha, weight_optimizer, alpha_optimizer, alive)


def enter_stage(run: Run, stage: int) -> None:
    """Replace networks, logits and optimisers by those that ``stage`` begins with; the rest of the state stays."""
    supernet = build_stage(run.space, run.method, run.data, run.config, stage)
    fresh, state = make_state(supernet, run.method, run.config, run.device), run.state
    state.supernet, state.w, state.alpha, state.stage = fresh.supernet, fresh.w, fresh.alpha, stage
    state.weight_optimizer, state.alpha_optimizer = fresh.weight_optimizer, fresh.alpha_optimizer


def search_halves(data: ImageData, config: SearchConfig) -> Halves:
    """The images of a search: those of its index file, or shares of every class."""
    if data.loaders is not None:
        return Halves(*data.loaders.halves())
    if config.index is not None:
        return read_index(config.index, data)
    if config.fractions is not None:
        return divide(data, config.fractions, config.seed)
    used = class_balanced_fraction(data.train.labels, config.train_fraction, config.seed)
    return Halves(*split_halves(data.train.labels, used, config.weight_share, config.seed))
