"""Searches of official code that draw or discretise, and those in NAS-Bench-201; as :mod:`measuring.published`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastnas.engine import Run
from fastnas.methods import METHODS
from fastnas.seeds import stream
from fastnas.spaces.cell_space import DARTS, NASBENCH201
from fastnas.spaces.chain_space import proxyless
from fastnas_kernels.gumbel import gumbel_softmax
from measuring.foreign import foreign_module, patched
from measuring.published import CLASSES, CLIP, CPU, Published, Size, descend, numbers, sgd


def nasp(checkout: Path, size: Size, name: str = "nasp") -> Published:
    """xujinfan/NASP-codes (its ``codes``), on the candidates that its space and that of DARTS share."""
    code: Any = foreign_module(checkout, "model_search", CPU)
    steps: Any = foreign_module(checkout, "architect", CPU)
    space = replace(DARTS, primitives=DARTS.primitives[1:])
    code.PRIMITIVES_NORMAL = code.PRIMITIVES_REDUCE = [p.replace("sep_conv", "sep") for p in space.primitives]
    code.PARAMS = dict.fromkeys(code.PRIMITIVES_NORMAL, 1)
    network = code.Network(size.channels, CLASSES, size.cells, nn.CrossEntropyLoss())
    architect, optimizer = steps.Architect(network, numbers()), sgd(list(network.parameters()))
    mixed = code.MixedOp.forward  # of its day, an element of a vector was a vector of one element
    code.MixedOp.forward = lambda edge, x, weights, kind: mixed(edge, x, weights.split(1), kind)

    def step(run: Run, images: Tensor, labels: Tensor) -> None:
        with patched(Tensor, cpu=Tensor.clone):  # its projection writes into what it copied from the GPU
            architect.step(images[0], labels[0], images[1], labels[1], 0.025, optimizer)
            network.clip()
            optimizer.zero_grad()
            network.binarization()
            F.cross_entropy(network(images[0]), labels[0]).backward()
            network.restore()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()

    with torch.no_grad():
        for alpha in network.arch_parameters():  # of which no two are equal
            alpha.copy_(torch.rand(alpha.shape, generator=torch.Generator().manual_seed(3)))
    method = METHODS["nasp"](published_for=space)
    return Published(method, list(network.parameters()), network.arch_parameters(), step, space)


def _weights201(network: Any) -> list[Tensor]:
    """The cells that are searched, then those that halve the resolution, as in the library's supernet."""
    cells = sorted(network.cells, key=lambda cell: not hasattr(cell, "edges"))
    parts = network.stem, *cells, network.lastact, network.classifier
    return [p for part in parts for p in part.parameters()]


def one_cell(network: Any) -> Callable[[], Mapping[str, Sequence[tuple[str, int]]]]:
    """The genotype of a network in NAS-Bench-201."""
    return lambda: {"normal": [gene for node in network.genotype().nodes for gene in node]}


def nasbench201(checkout: Path, size: Size, name: str = "gdas_nasbench201") -> Published:
    """D-X-Y/AutoDL-Projects: DARTS and GDAS in NAS-Bench-201, without what alpha's last step left behind."""
    kind = "gdas" if name.startswith("gdas") else "darts"
    code: Any = foreign_module(checkout, f"xautodl.models.cell_searchs.search_model_{kind}", CPU)
    build = code.TinyNetworkGDAS if kind == "gdas" else code.TinyNetworkDarts
    network = build(size.channels, size.cells, 4, CLASSES, list(NASBENCH201.primitives), False, False)
    alpha, weights = network.arch_parameters, _weights201(network)
    of_alpha = torch.optim.Adam([alpha], 3e-4, (0.5, 0.999), weight_decay=1e-3)
    optimizer = sgd(weights, 5e-4, nesterov=True)

    def step(run: Run, images: Tensor, labels: Tensor) -> None:
        if kind == "gdas":
            network.set_tau(10 - (10 - 0.1) * run.at.epoch / (run.at.epochs - 1))
        alpha.grad = None
        for phase, which, moves, clipped in (
            ("weights", 0, optimizer, network.parameters()),
            ("alpha", 1, of_alpha, ()),
        ):
            seed = stream(run.sampler(phase).seed, "draw normal", 0)
            noise = gumbel_softmax(torch.zeros_like(alpha), seed, 1.0, "soft").mix  # up to a factor an edge
            with patched(Tensor, exponential_=lambda x, noise=noise: x.copy_(1 / noise)):
                descend(moves, network, images[which], labels[which], clipped)

    settings = {"weight_decay": 5e-4, "nesterov": True}
    return Published(METHODS[name](), weights, [alpha], step, NASBENCH201, settings, genotype=one_cell(network))


def proxyless_nas(checkout: Path, size: Size, name: str = "proxyless_nas") -> Published:
    """mit-han-lab/proxylessnas (its ``search``): two paths, or with ``full_v2`` all gates. In steps in which a block
    that is left out is active the published code drops the block's gradient, and the library does not; the seed is one
    without such steps."""
    code: Any = foreign_module(checkout, "models.super_nets.super_proxyless", CPU)
    space, scale = proxyless(size.cells), size.channels / 16
    kernels = [f"{k}x{k}_MBConv{e}" for k in (3, 5, 7) for e in (3, 6)]
    widths, blocks = [24, 40, 80, 96, 192, 320], list(space.stages)
    build = code.SuperProxylessNASNets
    network = build(widths, blocks, kernels, [2, 2, 2, 1, 2, 1], CLASSES, scale)
    network.first_conv.conv.stride = (1, 1)  # images are small
    network.init_arch_params()
    logits, weights = list(network.architecture_parameters()), list(network.weight_parameters())
    of_alpha = torch.optim.Adam(logits, 1e-3, (0.0, 0.999))
    optimizer = sgd(weights, 4e-5, nesterov=True)
    mode = "two" if name == "proxyless_nas" else "full_v2"

    def draws(run: Run, phase: str, two: bool) -> Iterator[Tensor]:
        """What the published code draws, edge by edge."""
        drawn = run.sampler(phase)(run.state.alpha)
        for row, mix in enumerate(drawn.mix.candidates["normal"].detach()):
            active = mix.argmax()
            if two:
                pair = drawn.reached["normal"][row].nonzero().flatten()
                yield pair
                yield (pair == active).nonzero().flatten()
            else:
                yield active[None]

    def step(run: Run, images: Tensor, labels: Tensor) -> None:
        for which, chosen in ((0, draws(run, "weights", False)), (1, draws(run, "alpha", mode == "two"))):
            code.MixedEdge.MODE = mode if which else None
            with patched(torch, multinomial=lambda p, n, replacement=False, chosen=chosen: next(chosen)):
                network.reset_binary_gates()
            network.unused_modules_off()
            loss = F.cross_entropy(network(images[which]), labels[which])
            network.zero_grad()
            loss.backward()
            if which:
                network.set_arch_param_grad()
                of_alpha.step()
                if mode == "two":
                    network.rescale_updated_arch_param()
            else:
                optimizer.step()
            network.unused_modules_back()

    method = METHODS["proxyless_nas"](two_paths=mode == "two", alpha_every=1)
    method = replace(method, warmup_share=0.0)
    optimisers = {"weight_decay": 4e-5, "nesterov": True, "grad_clip": 0.0, "alpha_lr": 1e-3, "alpha_beta1": 0.0}
    settings = {**optimisers, "alpha_weight_decay": 0.0}
    return Published(method, weights, logits, step, space, settings)


def beta_darts(checkout: Path, size: Size, name: str = "beta_darts") -> Published:
    """Sunshine-Ye/Beta-DARTS in NAS-Bench-201, without the noise that its script can add, and with clipping by the
    weights alone."""
    code: Any = foreign_module(checkout, "nasbench201.model", CPU)
    steps: Any = foreign_module(checkout, "optimizers.darts.architect", CPU)
    primitives = list(NASBENCH201.primitives)
    network = code.Network(size.channels, size.cells, 4, CLASSES, nn.CrossEntropyLoss(), primitives, False, False)
    for conv in (m for cell in network.cells if hasattr(cell, "edges") for m in cell.modules()):
        if isinstance(conv, nn.Conv2d):  # as in the benchmark's code; the normalisation takes it away
            conv.bias = nn.Parameter(torch.zeros(conv.out_channels))
    architect, weights = steps.Architect(network, numbers()), _weights201(network)
    optimizer = sgd(weights)

    def step(run: Run, images: Tensor, labels: Tensor) -> None:
        halves = images[0], labels[0], images[1], labels[1]
        architect.step(*halves, 0.025, optimizer, run.at.epoch, unrolled=False)
        architect.optimizer.zero_grad()
        descend(optimizer, network, images[0], labels[0], weights)

    method = METHODS[name](largest=25.0)  # in 50 epochs as far as in the first half of 100
    return Published(method, weights, network.arch_parameters(), step, NASBENCH201, genotype=one_cell(network))
