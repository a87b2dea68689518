"""Training of derived networks from scratch."""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastnas.costs.counts import multiply_adds, num_parameters
from fastnas.data import (
    Batch,
    BrokenImages,
    ImageData,
    as_data,
    digest_data,
    evaluation_batches,
    set_augment,
    steps_per_epoch,
    training_batches,
)
from fastnas.data.division import class_balanced_fraction
from fastnas.errors import invalid, require_type
from fastnas.fingerprint import fingerprint
from fastnas.networks.derived import BuildNetwork, build_own_network
from fastnas.networks.network import DerivedNetwork
from fastnas.networks.training_pass import TrainingPass
from fastnas.progress import show_in_notebook
from fastnas.ranks import ALONE, Ranks, local_device, require_divisible
from fastnas.run_files import TrainingEpoch, append_record, keep_epochs
from fastnas.seeds import stream, torch_seed
from fastnas.spaces.formats import as_genotype, genotype_to_json
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.registry import space_by_name
from fastnas.spaces.space import Space
from fastnas.supernet.layout import lay_out
from fastnas.supernet.own import as_space
from fastnas.tasks import Classification, Task, require_smoothing, require_unbalanced
from fastnas.training.checkpoint import (
    has_checkpoint,
    load_checkpoint,
    note_threads,
    restoring,
    save_checkpoint,
    with_fewer_epochs,
)
from fastnas.training.config import RetrainConfig, TrainingSetup, announce_more, learning_rate
from fastnas.training.divergence import Fault, explain_divergence, find_fault
from fastnas.training.networks import build_network_for, parameter_groups
from fastnas.training.numerics import (
    Losses,
    Means,
    autocast,
    deterministic,
    evaluate,
    find_class_weights,
)
from fastnas.training.result import RetrainResult, describe_network
from fastnas.training.start import (
    MOST_BATCHES,
    SUPERNET,
    Init,
    Start,
    fill_statistics,
    read_score,
    save_start,
    start_from,
)

MOST_CONFUSED = 100  # classes whose matrix of confusions is kept


def retrain(
    genotype: Genotype | str | Path,
    data: Any,
    config: RetrainConfig = RetrainConfig(),  # noqa: B008
    setup: TrainingSetup = TrainingSetup(),  # noqa: B008
    *,
    task: Task | str | None = None,
    folder: Path | str | None = None,
    own: Space | None = None,
    network: BuildNetwork | None = None,
    init: Init | None = None,
    extend: bool = False,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None,
    ranks: Ranks = ALONE,
) -> RetrainResult:
    """Train the network of ``genotype`` on the whole training set and measure it on the test set.

    Args:
        genotype: What to build, or its name (``"DARTS_V2"``), file or text.
        data: Images, or what names them, see :func:`fastnas.data.as_data`; two data loaders train and test.
        config: Size, budget and optimiser.
        setup: Seed, share of the images, precision, device; a ``SearchConfig`` will do.
        task: What the labels of arrays and data sets are, see :mod:`fastnas.tasks`; without it classes.
        folder: Where to keep ``metrics.jsonl`` and ``checkpoint.pt``, and to go on from them.
        own: The genotype's space, if the library does not know it.
        network: A function from the genotype to a network of your own, as that of a supernet of your own; sizes are its
            affair, and so are drop-path and an auxiliary head. :func:`fastnas.load` needs it again.
        init: What the weights start from in place of random ones: a run or model folder, a model, or the supernet of a
            search at the same channels and cells; without it ``config.init_from``. See :class:`RetrainResult.start`.
        extend: Also go on from a checkpoint of fewer epochs, with a warning that says what becomes of the schedule.
        on_step: Called after every step with the number of steps done and their total.
        on_epoch: Called after every epoch with its record.
        ranks: The processes that train together. Each normalises by its part of a batch, and the running statistics
            are the first one's, as ``DistributedDataParallel`` has it.

    Raises:
        ValueError: For data, sizes or files that do not fit together.
        FloatingPointError: If a loss is not finite.

    Example:
        >>> import fastnas
        >>> config = fastnas.RetrainConfig(channels=4, cells=1, epochs=1)
        >>> edges = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"
        >>> result = fastnas.retrain(edges, "digits", config)
        >>> 0 <= result.test_accuracy <= 1
        True
    """
    on_step, on_epoch, _ = show_in_notebook("retrain", on_step, on_epoch)
    own = own if own is None or isinstance(own, Space) else as_space(own, "retrain")
    genotype = as_genotype(genotype, own, "retrain")
    dimensions = space_by_name(genotype.space, own).dimensions
    data = as_data(data, "retrain", pairs="parts", dimensions=dimensions, task=task)
    require_type("retrain", "config", config, RetrainConfig)
    require_type("retrain", "setup", setup, TrainingSetup)
    if network is not None and (config.drop_path or config.auxiliary):
        rule = "drop_path and auxiliary must be 0 with network=, which makes its own"
        raise invalid("retrain", rule, f"{config.drop_path:g} and {config.auxiliary:g}")
    folder = None if folder is None else Path(folder)
    if data.loaders is not None:
        setup = data.loaders.fit(setup, ranks.size > 1)
        config = data.loaders.fit(config, ranks.size > 1)
    if config.augment is not None or config.colour is not None:
        data = set_augment(data, config.augment, config.colour)
    require_divisible(ranks, config.batch_size)
    broken = BrokenImages(setup.max_broken, folder and folder / ranks.own_name("broken.jsonl"))
    init = config.init_from if init is None else init
    training = _Training(genotype, data, config, setup, own, ranks, broken, network, init)
    shape = (data.channels, *data.resolution)
    cost = num_parameters(training.network), multiply_adds(training.network, shape)
    history = training.restore(folder, extend)
    with deterministic(), training.explain(folder):
        start = training.measure_start(folder)
        for record in training.epochs(folder, on_step):
            history.append(record)
            if on_epoch is not None:
                on_epoch(record)
    seconds = sum(record["seconds"] for record in history)
    trained = training.network.eval().to(memory_format=torch.contiguous_format)
    last, score_name = history[-1], f"test_{data.task.score_name}"
    names = (score_name, "test_balanced_accuracy", *(f"test_{name}" for name in data.task.metrics))
    found: dict[str, Any] = {name: last.get(name) for name in names} | {"num_params": cost[0], "multiply_adds": cost[1]}
    measured = {name: value for name, value in found.items() if value is not None}
    info = describe_network(genotype, data, config, own, network is not None, measured)
    confusion = last.get("test_confusion")
    result = RetrainResult(genotype, *cost, last[score_name], seconds, trained, info, confusion, start)
    if folder is not None and ranks.is_first:
        result.save(folder / "model")
    return result


class _Training:
    """One network on its way through its epochs."""

    def __init__(
        self,
        genotype: Genotype,
        data: ImageData,
        config: RetrainConfig,
        setup: TrainingSetup,
        own: Space | None,
        ranks: Ranks,
        broken: BrokenImages,
        build: BuildNetwork | None = None,
        init: Init | None = None,
    ) -> None:
        self.data, self.config, self.setup, self.ranks, self.broken = data, config, setup, ranks, broken
        self.device = device = local_device(setup.device)
        require_unbalanced(data.task, setup.is_balanced, setup.class_weights == "balanced")
        require_smoothing(data.task, config.label_smoothing)
        self.indices = class_balanced_fraction(data.train.labels, setup.train_fraction, setup.seed)
        drop_last = config.drop_last or ranks.size > 1
        self.steps = steps_per_epoch(len(self.indices), config.batch_size, drop_last=drop_last)
        self.weights = None
        if setup.class_weights == "balanced":
            labels = data.train.labels[self.indices]
            self.weights = find_class_weights(setup, labels, len(data.classes), device)
        with torch_seed(stream(setup.seed, "retraining weights")):
            network = (
                build_network_for(data, genotype, config, own) if build is None else build_own_network(build, genotype)
            )
        classes, space = tuple(map(str, data.classes)), space_by_name(genotype.space, own)
        self.start = None if init is None else start_from(init, network, space, classes, build)
        self.network = cast(DerivedNetwork, lay_out(network.to(device)))
        # The same parameters, in a wrapper that averages their gradients
        training_pass = TrainingPass(self.network)
        self.averaging = DistributedDataParallel(training_pass) if ranks.size > 1 else training_pass
        self.optimizer = torch.optim.SGD(
            parameter_groups(self.network, config),
            config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
        )
        self.step = 0
        self.losses = Losses()
        numbers = asdict(config) | {name: getattr(setup, name) for name in ("seed", "train_fraction", "precision")}
        numbers |= setup.balancing
        del numbers["init_from"]  # the weights count, not where they lie
        numbers |= {} if self.start is None else {"init": self.start.identity}
        numbers |= {} if build is None else {"network": fingerprint(build)}
        self.identity = json.dumps([genotype_to_json(genotype), data.identity, digest_data(data), numbers])
        ranks.require_same("the configuration", self.identity)

    def restore(self, folder: Path | None, extend: bool) -> list[dict[str, Any]]:
        if folder is None:
            return []
        checkpoint, metrics = folder / "checkpoint.pt", folder / "metrics.jsonl"
        if has_checkpoint(checkpoint):
            identity = with_fewer_epochs(checkpoint, self.identity) if extend else self.identity
            saved = load_checkpoint(checkpoint, identity, self.device)
            with restoring(checkpoint):
                self.network.load_state_dict(saved["network"])
                self.optimizer.load_state_dict(saved["optimizer"])
                self.step = saved["step"]
            if identity != self.identity:
                announce_more(self.config, self.step // self.steps)
            if self.step < self.steps * self.config.epochs:
                note_threads(checkpoint, saved, self.device)
        epochs_done = self.step // self.steps
        return keep_epochs(metrics, TrainingEpoch, epochs_done, write=self.ranks.is_first)  # type: ignore[return-value]

    def measure_start(self, folder: Path | None) -> Start | None:
        """Where the weights came from, with the score before the first step where the classifier came with them."""
        start = self.start
        if start is None or self.step > 0:
            return start and replace(start, score=read_score(folder) if folder else None)
        if not any(name.startswith("classifier.") for name in start.fresh):
            if start.source == SUPERNET:
                fill_statistics(self.network, self.batches(0, min(self.steps, MOST_BATCHES)))
            start = replace(start, score=self.test().score)
        if folder is not None and self.ranks.is_first:
            save_start(start, folder)
        return start

    def test(self) -> Means:
        """Loss and score on the test images."""
        self.ranks.take_from_first(self.network.buffers())
        batches = evaluation_batches(
            self.data,
            self.data.test,
            batch_size=self.config.batch_size,
            workers=self.setup.workers,
            device=self.device,
            broken=self.broken,
            ranks=self.ranks,
        )
        precision, task = self.setup.precision, self.data.task
        return evaluate(self.network.eval(), batches, self.device, precision, self.ranks, task=task)

    def epochs(self, folder: Path | None, on_step: Callable[[int, int], None] | None) -> Iterator[dict[str, Any]]:
        config = self.config
        total = self.steps * config.epochs
        batches = self.batches(self.step, total - self.step)
        started = perf_counter()
        for batch in batches:
            epoch = self.step // self.steps
            lr = learning_rate(config, epoch, self.step % self.steps, self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.train_step(batch, config.drop_path * epoch / config.epochs)
            if self.step % self.steps == 0:
                record = self.record(epoch, lr) | {"seconds": perf_counter() - started}
                started = perf_counter()
                if folder is not None and self.ranks.is_first:
                    append_record(folder / "metrics.jsonl", record)
                    save_checkpoint(folder / "checkpoint.pt", self.identity, self.state_dict())
                yield record
            if on_step is not None:
                on_step(self.step, total)

    def batches(self, step: int, count: int) -> Iterator[Batch]:
        """``count`` batches from ``step`` on."""
        config = self.config
        return training_batches(
            self.data,
            self.indices,
            batch_size=config.batch_size,
            seed=self.setup.seed,
            first_step=step,
            num_steps=count,
            workers=self.setup.workers,
            cutout=config.cutout,
            sampling=self.setup.sampling,
            ranks=self.ranks,
            device=self.device,
            broken=self.broken,
            drop_last=config.drop_last,
        )

    def explain(self, folder: Path | None) -> AbstractContextManager[None]:
        """Inside the block, a number that is not finite ends the training in one line that says where it came from."""

        def find() -> Fault | None:
            done = len(self.losses.inner)
            return find_fault(self.losses, range(self.step - done, self.step))

        def read(step: int) -> dict[str, Batch | None]:
            return {"weight": next(self.batches(step, 1), None)}

        rates = {"weight": f"the learning rate ({self.config.lr:g})"}
        return explain_divergence(
            "retrain", find, read, lambda: {"weight": [*self.network.parameters()]}, rates, folder
        )

    def train_step(self, batch: Batch, drop_path: float) -> None:
        config = self.config
        images, labels = batch
        task = self.data.task
        self.network.train()
        own = (self.ranks.index,) if self.ranks.index else ()
        with autocast(self.device, self.setup.precision):
            logits, auxiliary = self.averaging(images, drop_path, stream(self.setup.seed, "drop path", self.step, *own))
        loss = task.loss(logits, labels, self.weights, config.label_smoothing)
        if auxiliary is not None:
            of_auxiliary = task.loss(auxiliary, labels, self.weights, config.label_smoothing)
            loss = loss + config.auxiliary * of_auxiliary
        self.optimizer.zero_grad(set_to_none=True)
        with warnings.catch_warnings():
            # Filters of one channel have two spellings of the same layout, of which the wrapper expects the other
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            loss.backward()
        if config.grad_clip > 0:
            nn.utils.clip_grad_norm_(self.network.parameters(), config.grad_clip)
        self.optimizer.step()
        self.losses.add_inner(loss.detach(), task.statistics(logits.detach(), labels), len(labels))
        self.step += 1
        self.losses.check_now_and_then("retrain", self.step)

    def record(self, epoch: int, lr: float) -> dict[str, Any]:
        config, data = self.config, self.data
        self.losses.check("retrain", self.step)
        train = self.losses.take_means(self.ranks, data.task)
        self.ranks.take_from_first(self.network.buffers())
        test, confusion, is_last = None, None, epoch + 1 == config.epochs
        if is_last or (epoch + 1) % config.evaluate_every == 0:
            test = self.test()
            if is_last and len(data.classes) <= MOST_CONFUSED and test.confusion is not None:
                confusion = test.confusion.tolist()
        score, classified = data.task.score_name, {}
        if isinstance(data.task, Classification):
            balanced = test.balanced_accuracy if test else None
            classified = {"test_balanced_accuracy": balanced, "test_confusion": confusion}
        return {
            "epoch": epoch,
            "epochs": config.epochs,
            "lr": lr,
            "train_loss": train.loss,
            f"train_{score}": train.score,
            "test_loss": test.loss if test else None,
            f"test_{score}": test.score if test else None,
            **{f"test_{name}": test.metrics[name] if test else None for name in data.task.metrics},
        } | classified

    def state_dict(self) -> dict[str, Any]:
        states = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {**states, "step": self.step, "threads": torch.get_num_threads()}
