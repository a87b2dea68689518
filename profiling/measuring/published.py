"""Searches of official code, a step at a time, with the random numbers that the library draws.

Every function takes the folder of a checkout and gives a :class:`Published`: the network with its weights and logits,
how its authors' script makes a step, and what the library has to be told to do the same. Modules of the checkout are
imported and run. What they cannot do on a CPU, or with PyTorch of today, is done for them from outside.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_pre_hook

from fastnas.engine import Run
from fastnas.mechanisms.schedules import SkipDropout
from fastnas.methods import METHODS, Method
from fastnas.seeds import stream
from fastnas.spaces.cell_space import DARTS
from fastnas.spaces.space import Space
from measuring.foreign import foreign_module, patched

CPU, CLASSES, CLIP = torch.device("cpu"), 10, 5.0
NOTHING: Mapping[str, Any] = MappingProxyType({})
Step = Callable[[Run, Tensor, Tensor], None]


class Published(NamedTuple):
    """A search of official code.

    Args:
        method: The library's.
        weights: Of the network, in the order of the library's.
        logits: By cell type.
        step: Makes a step on images ``[2, N, 3, H, W]`` and labels ``[2, N]`` of both halves, beside a run of the
            library that is about to make the same.
        space: Of the logits.
        settings: Of the library's search, where they differ from those of DARTS.
        epoch: In which both stand.
        alive: What is alive in each cell type; those that are missing are whole.
        genotype: What is derived from the logits: the genes of all nodes, by cell type.
    """

    method: Method
    weights: Sequence[Tensor]
    logits: Sequence[Tensor]
    step: Step
    space: Space = DARTS
    settings: Mapping[str, Any] = NOTHING
    epoch: int = 25
    alive: Mapping[str, Any] = NOTHING
    genotype: Callable[[], Mapping[str, Sequence[tuple[str, int]]]] | None = None


class Size(NamedTuple):
    """Channels of the first cells, and cells."""

    channels: int
    cells: int


def pair_of_cells(network: Any) -> Callable[[], Mapping[str, Sequence[tuple[str, int]]]]:
    """The genotype of a network that has two cells."""

    def genotype() -> Mapping[str, Sequence[tuple[str, int]]]:
        found = network.genotype()
        return {"normal": found.normal, "reduction": found.reduce}

    return genotype


def numbers(**changes: float) -> SimpleNamespace:
    usual = {"momentum": 0.9, "weight_decay": 3e-4, "arch_learning_rate": 3e-4, "arch_weight_decay": 1e-3}
    return SimpleNamespace(**{**usual, **changes})


def sgd(weights: Sequence[Tensor], weight_decay: float = 3e-4, nesterov: bool = False) -> torch.optim.Optimizer:
    return torch.optim.SGD(weights, 0.025, momentum=0.9, weight_decay=weight_decay, nesterov=nesterov)


def descend(optimizer: torch.optim.Optimizer, network: Any, images: Tensor, labels: Tensor, clipped: Any) -> None:
    """How the scripts of this family move the weights."""
    optimizer.zero_grad()
    outputs = network(images)
    F.cross_entropy(outputs[-1] if isinstance(outputs, tuple) else outputs, labels).backward()
    nn.utils.clip_grad_norm_(list(clipped), CLIP)
    optimizer.step()


class CellNoise:
    """The library's masks for networks that draw theirs cell by cell: from a fresh stream in every cell of a pass."""

    def __init__(self, cell: type[nn.Module]) -> None:
        self.cell, self.place, self.seed, self.generator = cell, 0, 0, torch.Generator()
        register_module_forward_pre_hook(self._enter)

    def begin(self, run: Run, phase: str) -> None:
        noise = run.sampler(phase)(run.state.alpha).mix.noise
        self.seed = 0 if noise is None else noise.seed

    def _enter(self, module: nn.Module, _: Any) -> None:
        if hasattr(module, "cells"):
            self.place = 0
        elif isinstance(module, self.cell):
            name = "reduction" if module.reduction else "normal"
            self.generator = torch.Generator().manual_seed(stream(self.seed, name, self.place))
            self.place += 1

    def bernoulli_(self, x: Tensor, p: float) -> Tensor:
        return x.copy_(torch.empty(x.shape).bernoulli_(p, generator=self.generator))

    def dropout(self, x: Tensor, p: float, training: bool = True, inplace: bool = False) -> Tensor:
        return x * torch.empty(x.shape).bernoulli_(1 - p, generator=self.generator) / (1 - p)


def darts(checkout: Path, size: Size, name: str = "darts") -> Published:
    """quark0/darts (its ``cnn``) and yuhuixu1993/PC-DARTS."""
    code: Any = foreign_module(checkout, "model_search", CPU)
    steps: Any = foreign_module(checkout, "architect", CPU)
    network = code.Network(size.channels, CLASSES, size.cells, nn.CrossEntropyLoss())
    architect, optimizer = steps.Architect(network, numbers()), sgd(list(network.parameters()))
    method = METHODS[name](by_differences=True) if name == "darts_2nd" else METHODS[name]()

    def step(run: Run, images: Tensor, labels: Tensor) -> None:
        halves = images[0], labels[0], images[1], labels[1]
        architect.step(*halves, 0.025, optimizer, unrolled=name == "darts_2nd")
        descend(optimizer, network, images[0], labels[0], network.parameters())

    names = ("alphas_normal", "alphas_reduce", "betas_normal", "betas_reduce")
    logits = [getattr(network, name) for name in names if hasattr(network, name)]
    return Published(method, list(network.parameters()), logits, step, genotype=pair_of_cells(network))


def robust_darts(checkout: Path, size: Size, name: str = "robust_darts") -> Published:
    """automl/RobustDARTS: second order by differences, with drop-path or twenty-seven times the weight decay."""
    code: Any = foreign_module(checkout, "src.search.model_search", CPU)
    steps: Any = foreign_module(checkout, "src.search.architect", CPU)
    edges = [list(DARTS.primitives)] * len(DARTS.edges)
    primitives = {"primitives_normal": edges, "primitives_reduct": edges}
    network = code.Network(size.channels, CLASSES, size.cells, nn.CrossEntropyLoss(), primitives)
    decay = 3e-4 * (27 if name == "robust_darts_l2" else 1)
    architect = steps.Architect(network, numbers(weight_decay=decay))
    optimizer, noise = sgd(list(network.parameters()), decay), CellNoise(code.Cell)
    changes = {"as_published_code": True} if name == "robust_darts" else {"by_differences": True}

    def step(run: Run, images: Tensor, labels: Tensor) -> None:
        if name == "robust_darts_dp":
            network.drop_path_prob = 0.2 * run.at.epoch / (run.at.epochs - 1)
        with patched(torch.cuda, FloatTensor=torch.empty), patched(Tensor, bernoulli_=_method(noise.bernoulli_)):
            noise.begin(run, "alpha")
            halves = images[0], labels[0], images[1], labels[1]
            architect.step(*halves, 0.025, optimizer, unrolled=True)
            noise.begin(run, "weights")
            descend(optimizer, network, images[0], labels[0], network.parameters())

    method, logits = METHODS[name](**changes), network.arch_parameters()
    return Published(method, list(network.parameters()), logits, step, genotype=pair_of_cells(network))


def _method(function: Callable) -> Callable:
    """``function`` as a method of tensors that PyTorch's own generators still reach inside of it."""
    original = Tensor.bernoulli_

    def call(self: Tensor, p: float = 0.5, *, generator: torch.Generator | None = None) -> Tensor:
        return original(self, p, generator=generator) if generator is not None else function(self, p)

    return call


def smooth_darts(checkout: Path, size: Size, name: str = "smooth_darts_rs") -> Published:
    """xiangning-chen/SmoothDARTS: noise on the coefficients of the weight step, random or adversarial.

    Its ascent takes running statistics; it is held to those of the batch here, as the library does.
    """
    code: Any = foreign_module(checkout, "sota.cnn.model_search", CPU)
    steps: Any = foreign_module(checkout, "optimizers.darts.architect", CPU)
    attacks: Any = foreign_module(checkout, "attacker.perturb", CPU)
    space = replace(DARTS, primitives=DARTS.primitives[1:])
    edges = [list(space.primitives)] * len(space.edges)
    primitives = {"primitives_normal": edges, "primitives_reduct": edges}
    network = code.Network(size.channels, CLASSES, size.cells, nn.CrossEntropyLoss(), primitives)
    network.eval = lambda: network
    architect, optimizer = steps.Architect(network, numbers()), sgd(list(network.parameters()))
    attack = attacks.Random_alpha if name == "smooth_darts_rs" else attacks.Linf_PGD_alpha

    def step(run: Run, images: Tensor, labels: Tensor) -> None:
        halves = images[0], labels[0], images[1], labels[1]
        architect.step(*halves, 0.025, optimizer, unrolled=False)
        optimizer.zero_grad()
        architect.optimizer.zero_grad()
        radius = 0.03 + (0.3 - 0.03) * run.at.epoch / run.at.epochs
        generator = torch.Generator().manual_seed(stream(run.config.seed, "perturbation", run.state.step))
        original = Tensor.uniform_
        network.softmax_arch_parameters()
        with patched(Tensor, uniform_=lambda x, low, high: original(x, low, high, generator=generator)):
            attack(network, images[0], labels[0], radius)
        descend(optimizer, partial(network, updateType="weight"), images[0], labels[0], network.parameters())
        network.restore_arch_parameters()

    logits, genotype = network.arch_parameters(), pair_of_cells(network)
    return Published(METHODS[name](), list(network.parameters()), logits, step, space, genotype=genotype)


def p_darts(checkout: Path, size: Size, name: str = "p_darts") -> Published:
    """chenxin061/pdarts: a stage in which five of eight candidates are left and skip connections are dropped."""
    code: Any = foreign_module(checkout, "model_search", CPU)
    generator = torch.Generator().manual_seed(2)

    def five_of_eight() -> list[list[bool]]:
        orders = [torch.randperm(8, generator=generator).tolist() for _ in DARTS.edges]
        return [[k in order[:5] for k in range(8)] for order in orders]

    switches = {"normal": five_of_eight(), "reduction": five_of_eight()}
    network = code.Network(
        size.channels,
        CLASSES,
        size.cells,
        nn.CrossEntropyLoss(),
        switches_normal=switches["normal"],
        switches_reduce=switches["reduction"],
        p=0.4,
    ).double()
    logits = network.arch_parameters()
    weights = [p for p in network.parameters() if all(p is not a for a in logits)]
    of_alpha = torch.optim.Adam(logits, 3e-4, (0.5, 0.999), weight_decay=1e-3)
    optimizer, noise = sgd(weights), CellNoise(code.Cell)

    def step(run: Run, images: Tensor, labels: Tensor) -> None:
        network.p = 0.4 * float(torch.tensor(-(run.at.epoch - 10) * 0.2).exp())
        network.update_p()
        with patched(F, dropout=noise.dropout):
            noise.begin(run, "alpha")
            descend(of_alpha, network, images[1], labels[1], logits)
            noise.begin(run, "weights")
            descend(optimizer, network, images[0], labels[0], weights)

    method = replace(METHODS["p_darts"](), stages=METHODS["darts"]().stages, skip_dropout=SkipDropout((0.4,)))
    alive = {name: tuple(map(tuple, rows)) for name, rows in switches.items()}
    return Published(
        method, weights, logits, step, settings={"epochs": 25, "alpha_grad_clip": CLIP}, epoch=12, alive=alive
    )


def fair_darts(checkout: Path, size: Size, name: str = "fair_darts") -> Published:
    """xiaomi-automl/FairDARTS (its ``fairdarts``)."""
    code: Any = foreign_module(checkout, "model_search", CPU)
    steps: Any = foreign_module(checkout, "architect", CPU)
    losses: Any = foreign_module(checkout, "separate_loss", CPU)
    space = replace(DARTS, primitives=tuple(code.PRIMITIVES))
    network = code.Network(size.channels, CLASSES, size.cells, losses.ConvSeparateLoss(weight=10.0))
    architect = steps.Architect(network, SimpleNamespace(**vars(numbers()), arch_lr_gamma=0.5))
    optimizer = sgd(list(network.parameters()))

    def step(run: Run, images: Tensor, labels: Tensor) -> None:
        architect.step(images[1], labels[1])
        descend(optimizer, network, images[0], labels[0], network.parameters())

    logits, genotype = network.arch_parameters(), pair_of_cells(network)
    return Published(METHODS[name](), list(network.parameters()), logits, step, space, genotype=genotype)


def darts_minus(checkout: Path, size: Size, name: str = "darts_minus") -> Published:
    """Meituan-AutoML/DARTS-, whose auxiliary skip connections share their weights with the candidates, as the library's
    do, and fade in a straight line."""
    options = SimpleNamespace(auxiliary_skip=True, auxiliary_operation="skip", disable_cuda=True)
    utilities: Any = foreign_module(checkout, "src.utils", CPU)
    fading = utilities.DecayScheduler(base_lr=1.0, T_max=50, T_stop=50, decay_type="linear")
    sys.modules["src.search.args"] = SimpleNamespace(args=options, beta_decay_scheduler=fading)  # type: ignore[assignment]
    code: Any = foreign_module(checkout, "src.search.model_search", CPU)
    steps: Any = foreign_module(checkout, "src.search.architect", CPU)
    edges = [list(DARTS.primitives)] * len(DARTS.edges)
    primitives = {"primitives_normal": edges, "primitives_reduct": edges}
    network = code.Network(size.channels, CLASSES, size.cells, nn.CrossEntropyLoss(), primitives, args=options)
    for edge in (m for m in network.modules() if isinstance(m, code.MixedOp)):
        edge.auxiliary_op = edge._ops[DARTS.primitives.index("skip_connect")]
    architect, optimizer = steps.Architect(network, numbers()), sgd(list(network.parameters()))

    def step(run: Run, images: Tensor, labels: Tensor) -> None:
        fading.step(run.at.epoch)
        architect.step(images[0], labels[0], images[1], labels[1], 0.025, optimizer, unrolled=False)
        descend(optimizer, network, images[0], labels[0], network.parameters())

    logits, genotype = network.arch_parameters(), pair_of_cells(network)
    return Published(METHODS[name](), list(network.parameters()), logits, step, genotype=genotype)
