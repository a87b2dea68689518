"""The configurations whose memory is predicted and measured, and both numbers of one of them."""

import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch

from fastnas.data import DataConfig, placeholder_data
from fastnas.memory.prediction import measure, predict
from fastnas.memory.scene import Setup, build_scene, list_moments
from fastnas.methods.library import METHODS
from fastnas.spaces.registry import space_by_name
from fastnas.training.config import SearchConfig
from measuring.device import CudaDevice
from measuring.memory import step_peak

GPU_BLOCK = 512
"""What CUDA's allocator rounds up to."""
SMALL = SearchConfig(channels=8, cells=3, epochs=6, batch_size=8, device="cpu")


class Case(NamedTuple):
    """A configuration."""

    title: str
    setup: Setup


def case(method: str, space: str, data: str = "digits", side: int = 16, **changes: object) -> Case:
    """A configuration by its names."""
    made = METHODS[method]()
    if method == "parsec":
        few = replace(made.hypergradient, draws=2)  # type: ignore[type-var]
        made = replace(made, hypergradient=few, weight_average=few)  # type: ignore[arg-type]
    config = replace(SMALL, **changes)  # type: ignore[arg-type]
    if made.partial_channels > 1:
        config = replace(config, channels=max(config.channels, 4 * made.partial_channels))
    in_space = space_by_name(space).with_depth(config.cells)
    words = " ".join(config.recompute)
    title = f"{method}, {space}, C={config.channels}, {config.cells} cells, {config.batch_size}×{side}², "
    return Case(
        f"{title}{config.precision}, {words}",
        Setup(in_space, made, placeholder_data(data, DataConfig(resolution=side)), config),
    )


def configurations() -> Iterator[Case]:
    """Methods, spaces, batches, resolutions, precisions and plans."""
    for method in METHODS:
        yield case(method, "nasbench201", cells=1, batch_size=16)
    for method in ("darts", "darts_2nd", "pc_darts", "gdas", "snas", "p_darts", "smooth_darts_adv", "nasp", "parsec"):
        yield case(method, "darts")
    for space in ("s1", "s2", "s3", "s4", "sharpdarts"):
        yield case("darts", space)
    for method in ("proxyless_nas", "darts", "gdas"):
        yield case(method, "proxyless", cells=1, side=32)
    for batch_size, side in ((4, 32), (16, 32), (64, 8), (2, 64), (32, 16)):
        yield case("darts", "darts", side=side, channels=16, batch_size=batch_size)
    yield case("pc_darts_imagenet", "darts", "imagenet", 224, channels=16, batch_size=2)
    yield case("proxyless_nas", "proxyless", "imagenet", 224, channels=16, cells=1, batch_size=2)
    for method, space in (("darts", "darts"), ("pc_darts", "darts"), ("gdas", "darts"), ("darts", "nasbench201")):
        yield case(method, space, precision="bfloat16", side=32)
    for words in (("edges",), ("cell",), ("none", "edges", "cell", "none"), ("cell", "joined", "joined", "none")):
        yield case("darts", "darts", side=32, channels=16, recompute=words)
        yield case("pc_darts", "darts", side=32, recompute=words)
    for words in (("edges",), ("cell",)):
        yield case("darts", "nasbench201", cells=2, side=32, recompute=words)
        yield case("proxyless_nas", "proxyless", cells=1, side=32, recompute=words)
    yield case("darts_2nd", "nasbench201", cells=1, recompute=("cell",))
    yield case("darts", "darts", side=32, precision="bfloat16", recompute=("edges",))


def random_case(seed: int) -> Case:
    """A small configuration of which every setting is drawn."""
    rng = Random(seed)
    space = rng.choice(["darts", "nasbench201", "s1", "s2", "s3", "s4", "sharpdarts", "proxyless"])
    methods = [name for name in METHODS if space != "proxyless" or METHODS[name]().partial_channels == 1]
    plain = [name for name in methods if name not in ("p_darts", "darts_plus", "dso_nas", "dso_nas_full")]
    cells = {"nasbench201": rng.choice([1, 2]), "proxyless": 1}.get(space, rng.choice([3, 3, 4]))
    words = [("none",), ("edges",), ("cell",), ("none", "edges", "cell", "none"), ("cell", "joined", "edges")]
    return case(
        rng.choice(plain),
        space,
        "digits",
        rng.choice([8, 16]),
        cells=cells,
        channels=rng.choice([4, 8]),
        batch_size=rng.choice([2, 4]),
        precision=rng.choice(["float32", "float32", "bfloat16"]),
        recompute=rng.choice(words),
    )


def whole_supernets() -> Iterator[Case]:
    """The published searches."""
    yield case("darts", "darts", "cifar10", 32, channels=16, cells=8, batch_size=16)
    yield case("darts", "darts", "cifar10", 32, channels=16, cells=8, batch_size=64)
    yield case("pc_darts_imagenet", "darts", "imagenet", 224, channels=16, cells=8, batch_size=128)
    yield case("proxyless_nas", "proxyless", "imagenet", 224, channels=16, cells=4, batch_size=256)


class Compared(NamedTuple):
    """Peak bytes of the largest phase of a step."""

    predicted: int
    measured: int


def compared(setup: Setup, device: torch.device) -> Compared:
    """The same search predicted as for the allocator of ``device``, and measured there."""
    if device.type == "cpu":
        return Compared(predict(setup).peak.num_bytes, measure(setup).peak.num_bytes)
    return Compared(predict(setup, GPU_BLOCK).peak.num_bytes, step_peak(CudaDevice(device), setup))


def resident(make: Callable[[int], Case], number: int) -> tuple[int, int]:
    """Bytes that the operating system sees in this process beyond those before the step, and what a prediction counts
    that was there before."""
    torch.set_num_threads(1)
    small = case("darts", "nasbench201", cells=1, batch_size=2).setup
    for phase in build_scene(small, list_moments(small)[0]).phases().values():
        phase()  # loads libraries and makes tables, which are no part of a step
    setup = make(number).setup
    scene = build_scene(setup, list_moments(setup)[0])
    given = sum(t.untyped_storage().nbytes() for tensors in scene.given.values() for t in tensors)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    for phase in scene.phases().values():
        phase()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return after - before, given
