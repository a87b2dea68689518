"""THE loop: every method of the library goes through it."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fastnas.bilevel.hypergradient import Bilevel, Tensors
from fastnas.mechanisms.relaxation import edge_softmax, entropy
from fastnas.mechanisms.schedules import cosine, warmed_up
from fastnas.methods import Method
from fastnas.seeds import stream, torch_seed
from fastnas.space.cell_space import CellSpace
from fastnas.space.formats import genotype_to_text
from fastnas.space.genotype import Genotype
from fastnas.supernet.architecture import by_cell_type, initial_logits, only_candidates
from fastnas.supernet.mix import Mix
from fastnas.supernet.supernets import build_supernet
from fastnas.train.checkpoint import load_checkpoint, save_checkpoint
from fastnas.train.config import SearchConfig, torch_device
from fastnas.train.data import (
    Batch,
    ImageData,
    class_balanced_fraction,
    evaluation_batches,
    load_data,
    paired_batches,
    split_halves,
    steps_per_epoch,
)
from fastnas.train.files import append_json_line, keep_json_lines
from fastnas.train.numerics import Losses, autocast, deterministic, evaluate
from fastnas_kernels.check import require

OnStep = Callable[[int, int], None]
OnEpoch = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class SearchResult:
    """What a search returns.

    Args:
        genotype: The derived architecture.
        alpha: Logits at the end, ``alpha.<cell type>`` ``[E, K]`` and ``beta.<cell type>`` ``[E]``.
        history: One record an epoch, as in ``metrics.jsonl``.
        supernet: The trained supernet.
    """

    genotype: Genotype
    alpha: dict[str, Tensor]
    history: list[dict[str, Any]]
    supernet: nn.Module


@dataclass
class SearchState:
    """All that changes during a search, and all that a checkpoint holds."""

    supernet: nn.Module
    w: dict[str, nn.Parameter]
    alpha: dict[str, nn.Parameter]
    weight_optimizer: torch.optim.Optimizer
    alpha_optimizer: torch.optim.Optimizer
    step: int = 0
    losses: Losses = field(default_factory=Losses)

    def state_dict(self) -> dict[str, Any]:
        return {
            "w": {name: p.detach() for name, p in self.w.items()},
            "alpha": {name: a.detach() for name, a in self.alpha.items()},
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "alpha_optimizer": self.alpha_optimizer.state_dict(),
            "step": self.step,
            "losses": asdict(self.losses),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for ours, theirs in ((self.w, saved["w"]), (self.alpha, saved["alpha"])):
                for name, tensor in ours.items():
                    tensor.copy_(theirs[name])
        self.weight_optimizer.load_state_dict(saved["weight_optimizer"])
        self.alpha_optimizer.load_state_dict(saved["alpha_optimizer"])
        self.step = saved["step"]
        self.losses = Losses(**saved["losses"])


def search(
    space_or_supernet: CellSpace | nn.Module,
    method: Method,
    data: ImageData | str,
    config: SearchConfig = SearchConfig(),  # noqa: B008
    *,
    folder: Path | None = None,
    on_step: OnStep | None = None,
    on_epoch: OnEpoch | None = None,
) -> SearchResult:
    """Search an architecture: train alpha and the weights of a supernet in turn, then derive.

    Args:
        space_or_supernet: A space, for which a supernet is built, or a supernet: a module with a ``space``, called
            as ``supernet(images, mix)``. A supernet of your own keeps its weights as the starting point and is trained
            in place.
        method: What to do; see :mod:`fastnas.methods`.
        data: Images, or what names them: ``"digits"``, ``"cifar10:ROOT"``, ...
        config: Size, budget and optimisers.
        folder: Where to keep ``metrics.jsonl`` and ``checkpoint.pt``. If they are there already, the search goes on
            from them, bit for bit as if it had never stopped.
        on_step: Called after every step with the number of steps done and their total.
        on_epoch: Called after every epoch with its record.

    Raises:
        ValueError: For data, sizes or files that do not fit together.
        FloatingPointError: If a loss is not finite.
    """
    data = load_data(data) if isinstance(data, str) else data
    device = torch_device(config.device)
    halves = _halves(data, config)
    steps = steps_per_epoch(len(halves[0]), config.batch_size, "the half for the weights")
    steps_per_epoch(len(halves[1]), config.batch_size, "the half for alpha")  # raises where one cannot be filled
    state = _initial_state(space_or_supernet, method, data, config, device)
    run = _Run(method, data, config, device, halves, steps, state)
    history = _restore(run, folder)
    with deterministic():
        for record in _epochs(run, folder, on_step):
            history.append(record)
            if on_epoch is not None:
                on_epoch(record)
    mix = relax(method, state.supernet.space, state.alpha)  # type: ignore[arg-type]
    alpha = {name: a.detach().clone() for name, a in state.alpha.items()}
    return SearchResult(_derive(run, mix), alpha, history, state.supernet)


def weight_learning_rate(config: SearchConfig, epoch: int) -> float:
    """The learning rate of the weights in ``epoch``, warm-up included."""
    rate = cosine(config.weight_lr, epoch, config.epochs, config.weight_lr_final)
    return warmed_up(rate, config.weight_lr, epoch, config.weight_lr_warmup_epochs)


def relax(method: Method, space: CellSpace, alpha: Tensors) -> Mix:
    """The coefficients that ``method`` mixes with at the logits ``alpha``."""
    alpha = only_candidates(space, alpha)
    rows = [space.rows(space.num_inputs + node) for node in range(space.num_nodes)]
    return Mix(
        by_cell_type(alpha, "alpha", method.relaxation),
        by_cell_type(alpha, "beta", lambda beta_E: edge_softmax(beta_E, rows)),
    )


@dataclass(frozen=True)
class _Run:
    """What stays the same during one search, and the state that does not."""

    method: Method
    data: ImageData
    config: SearchConfig
    device: torch.device
    halves: tuple[np.ndarray, np.ndarray]
    steps: int
    state: SearchState

    @property
    def warmup_epochs(self) -> int:
        given = self.config.warmup_epochs
        return round(self.method.warmup_share * self.config.epochs) if given is None else given

    @property
    def space(self) -> CellSpace:
        return self.state.supernet.space  # type: ignore[return-value]

    @cached_property
    def evaluation_order(self) -> np.ndarray:
        """The half for alpha, shuffled: data sets list their images class by class, and a batch of one class has
        statistics that normalise the class away."""
        rng = np.random.default_rng(stream(self.config.seed, "evaluation"))
        return rng.permutation(self.halves[1])

    @property
    def identity(self) -> str:
        """What must be equal for a checkpoint to fit: all but where and how fast it runs."""
        numbers = asdict(replace(self.config, device="cpu", workers=0, checkpoint_steps=0))
        return json.dumps([self.method.name, self.space.name, self.data.name, self.data.resolution, numbers])


def _halves(data: ImageData, config: SearchConfig) -> tuple[np.ndarray, np.ndarray]:
    labels = data.train.labels
    used = class_balanced_fraction(labels, config.train_fraction, config.seed)
    return split_halves(labels, used, config.weight_share, config.seed)


def _initial_state(
    space_or_supernet: CellSpace | nn.Module,
    method: Method,
    data: ImageData,
    config: SearchConfig,
    device: torch.device,
) -> SearchState:
    if isinstance(space_or_supernet, CellSpace):
        with torch_seed(stream(config.seed, "weights")):
            supernet = build_supernet(
                space_or_supernet,
                len(data.classes),
                config.channels,
                config.cells,
                method.connection.k,
                data.channels,
                data.large,
            )
    else:
        supernet = space_or_supernet
        rule, remedy = "supernet must have a space", "Give it an attribute `space`, a CellSpace."
        has_space = isinstance(getattr(supernet, "space", None), CellSpace)
        require(has_space, "search", rule, type(supernet).__name__, remedy)
    supernet = supernet.to(device).train()
    w = dict(supernet.named_parameters())
    beta = method.connection.edge_normalisation
    alpha = initial_logits(supernet.space, beta, config.seed, device)  # type: ignore[arg-type]
    assert not {id(p) for p in w.values()} & {id(a) for a in alpha.values()}, "alpha is no network weight"
    weight_optimizer = torch.optim.SGD(
        w.values(),
        config.weight_lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )
    alpha_optimizer = torch.optim.Adam(
        alpha.values(),
        config.alpha_lr,
        betas=(config.alpha_beta1, config.alpha_beta2),
        weight_decay=config.alpha_weight_decay,
    )
    return SearchState(supernet, w, alpha, weight_optimizer, alpha_optimizer)


def _restore(run: _Run, folder: Path | None) -> list[dict[str, Any]]:
    """Load the checkpoint of ``folder`` if there is one; returns the records of the epochs that it has behind it."""
    if folder is None:
        return []
    checkpoint, metrics = folder / "checkpoint.pt", folder / "metrics.jsonl"
    if checkpoint.exists():
        run.state.load_state_dict(load_checkpoint(checkpoint, run.identity, run.device))
    epochs_done = run.state.step // run.steps
    return keep_json_lines(metrics, lambda record: record["epoch"] < epochs_done)


def _epochs(run: _Run, folder: Path | None, on_step: OnStep | None) -> Iterator[dict[str, Any]]:
    config, state = run.config, run.state
    total = run.steps * config.epochs
    batches = paired_batches(
        run.data,
        *run.halves,
        batch_size=config.batch_size,
        seed=config.seed,
        first_step=state.step,
        num_steps=total - state.step,
        search_from_step=run.warmup_epochs * run.steps,
        workers=config.workers,
    )
    started = perf_counter()
    for weight_batch, search_batch in batches:
        epoch = state.step // run.steps
        lr = weight_learning_rate(config, epoch)
        for group in state.weight_optimizer.param_groups:
            group["lr"] = lr
        search_step(run, weight_batch, search_batch)
        ends_epoch = state.step % run.steps == 0
        if ends_epoch:
            record = _record(run, epoch, lr, perf_counter() - started)
            started = perf_counter()
            if folder is not None:
                append_json_line(folder / "metrics.jsonl", record)
        if folder is not None and (ends_epoch or _checkpoint_due(run)):
            state.losses.check("search", state.step)
            save_checkpoint(folder / "checkpoint.pt", run.identity, state.state_dict())
        if on_step is not None:
            on_step(state.step, total)
        if ends_epoch:
            yield record


def _checkpoint_due(run: _Run) -> bool:
    every = run.config.checkpoint_steps
    return every > 0 and run.state.step % every == 0


def search_step(run: _Run, weight_batch: Batch, search_batch: Batch | None) -> None:
    """Move alpha by one step on ``search_batch``, if there is one, then the weights by one step on ``weight_batch``.

    Each half computes and saves for its own variables alone: the weights enter the first detached, and the
    coefficients the second.
    """
    state, method, config = run.state, run.method, run.config

    noise = stream(config.seed, "noise", state.step)

    def loss(w: Tensors, mix: Mix, batch: Batch) -> tuple[Tensor, Tensor]:
        images, labels = batch.images.to(run.device, non_blocking=True), batch.labels.to(run.device, non_blocking=True)
        with autocast(run.device, config.precision):
            logits = functional_call(state.supernet, dict(w), (images, mix._replace(seed=noise)))
        return F.cross_entropy(logits.float(), labels), (logits.argmax(1) == labels).sum()

    if search_batch is not None:
        outer_batch = search_batch
        problem = Bilevel(
            inner=lambda w, alpha: loss(w, relax(method, run.space, alpha), weight_batch)[0],
            outer=lambda w, alpha: loss(w, relax(method, run.space, alpha), outer_batch)[0],
        )
        outer_loss, gradients = method.hypergradient(problem, state.w, state.alpha)
        state.losses.add_outer(outer_loss)
        _step(state.alpha_optimizer, state.alpha, gradients, config.alpha_grad_clip)

    with torch.no_grad():
        mix = relax(method, run.space, state.alpha)
    inner_loss, num_correct = loss(state.w, mix, weight_batch)
    grads = torch.autograd.grad(inner_loss, list(state.w.values()), allow_unused=True)
    state.losses.add_inner(inner_loss.detach(), num_correct, len(weight_batch.labels))
    _step(state.weight_optimizer, state.w, dict(zip(state.w, grads, strict=True)), config.grad_clip)
    state.step += 1
    state.losses.check_now_and_then("search", state.step)


def _step(
    optimizer: torch.optim.Optimizer,
    variables: Mapping[str, nn.Parameter],
    gradients: Mapping[str, Tensor | None],
    clip: float,
) -> None:
    """One optimiser step; variables without a gradient stay put, without decay or momentum, and none is left."""
    for name, variable in variables.items():
        variable.grad = gradients[name]
    if clip > 0:
        nn.utils.clip_grad_norm_(variables.values(), clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _record(run: _Run, epoch: int, lr: float, seconds: float) -> dict[str, Any]:
    """The line of one epoch in ``metrics.jsonl``; starts the sums of the next epoch."""
    state, config = run.state, run.config
    state.losses.check("search", state.step)
    with torch.no_grad():
        mix = relax(run.method, run.space, state.alpha)
        batches = evaluation_batches(
            run.data.train,
            run.data.eval_transform,
            run.evaluation_order,
            batch_size=config.batch_size,
            workers=config.workers,
        )
        outer = evaluate(lambda images: state.supernet(images, mix), batches, run.device, config.precision)
    inner = state.losses.take_means()

    def plain(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        return {name: tensor.detach().cpu().tolist() for name, tensor in tensors.items()}

    return {
        "epoch": epoch,
        "epochs": config.epochs,
        "step": state.step,
        "weight_lr": lr,
        "alpha_moves": epoch >= run.warmup_epochs,
        "inner_loss": inner.loss,
        "inner_accuracy": inner.accuracy,
        "outer_loss": outer.loss,
        "outer_accuracy": outer.accuracy,
        "entropy": plain({name: entropy(mix_EK) for name, mix_EK in mix.candidates.items()}),
        "alpha": plain(by_cell_type(state.alpha, "alpha", lambda x: x)),
        "beta": plain(by_cell_type(state.alpha, "beta", lambda x: x)),
        "mix": plain(mix.candidates),
        "edge_mix": plain(mix.edges),
        "genotype": genotype_to_text(_derive(run, mix)),
        "seconds": seconds,
    }


def _derive(run: _Run, mix: Mix) -> Genotype:
    candidates, edges = ({name: x.detach().cpu().tolist() for name, x in part.items()} for part in mix[:2])
    return run.method.derivation(run.space, candidates, edges)
