"""How many images a second does a core load, next to torchvision's ImageFolder?

Every contender brings batches into the training process through one worker process: normalised float32, or uint8 where
a GPU normalises; with every decoder that is installed. Counted are the CPU seconds of both processes, from the start of
the worker to its end. Before that the pixels are compared: parts that are decoded whole must equal those of
torchvision's v2.RandomResizedCrop bit for bit, and of the others the mean absolute difference is printed.

Without ``--images``, small rendered images are loaded as a search loads them, from a folder, a data set and arrays.
"""

import resource
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
import tyro
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from torchvision.transforms import v2

from fastnas.data import DataConfig, ImageData, from_arrays, from_dataset, load_data, training_batches, write_shards
from fastnas.data.decoders import decode_jpeg_by_turbojpeg, load_turbojpeg, use_decoder
from fastnas.data.encoded import EncodedImage
from fastnas.data.images import as_they_are
from fastnas.data.jpeg import JpegDecoder, decode_jpeg
from fastnas.data.pixels import IMAGENET
from fastnas.data.transforms import RandomResizedCrop
from fastnas.seeds import torch_seed
from fastnas_kernels.check import Unavailable, invalid
from measuring.writing import Section

JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to load.

    Args:
        images: A folder of folders of JPEG files, one a class; unset to compare the ways in of the same small images.
        copies: How often each image is loaded in a pass.
        batch_size: Images of a batch.
        resolution: Side in pixels of what is loaded.
        side: Shorter side of the shards that hold smaller images.
        runs: Passes of each contender, in turn.
    """

    images: Path | None = None
    copies: int = 8
    batch_size: int = 50
    resolution: int = 224
    side: int = 256
    runs: int = 5


class Pixels(NamedTuple):
    """Parts of images, how many of them were decoded smaller, and the mean difference of those in steps of 255."""

    parts: int
    smaller: int
    difference: float


def main(options: Options) -> int:
    if options.images is None:
        print(f"torch {torch.__version__}; 1 thread\n")
        with tempfile.TemporaryDirectory() as scratch:
            print(ways_in(options, Path(scratch)))
        return 0
    decoders = ", ".join(["simplejpeg"] + ["turbojpeg"] * has_turbojpeg())
    print(f"torch {torch.__version__}, decoders {decoders}; 1 thread, {files(options)}\n")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "data"
        lay_out(options, root)
        data = load_data(f"imagenet:{root}", DataConfig(resolution=options.resolution))
        print(differences(options, data))
        print(decodings(options))
        print(speeds(options, contenders(options, root, data), len(data.train.labels)))
    return 0


def has_turbojpeg() -> bool:
    """Whether libjpeg-turbo 3 is installed beside the decoder that always is."""
    return is_there(load_turbojpeg)


def is_there(needed: Callable[[], object]) -> bool:
    """Whether what is needed is available."""
    try:
        needed()
    except Unavailable:
        return False
    return True


def encoded(options: Options) -> list[EncodedImage]:
    """The images."""
    assert options.images is not None
    return [EncodedImage(str(path), path.read_bytes()) for path in sorted(options.images.glob("*/*"))]


def files(options: Options) -> str:
    """How many images there are, and how large."""
    images = encoded(options)
    sides, kilobytes = [sorted(image.size()) for image in images], [len(image.content) / 1000 for image in images]
    shorter, longer = (sorted(side[i] for side in sides) for i in (0, 1))
    return (
        f"{len(images)} JPEG files: median {median(longer):.0f}×{median(shorter):.0f} pixels (shorter side "
        f"{shorter[0]} to {shorter[-1]}) and {median(kilobytes):.0f} kB, mean {np.mean(kilobytes):.0f} kB"
    )


def lay_out(options: Options, root: Path) -> None:
    """Links to the images as ImageNet's folders."""
    assert options.images is not None
    for folder in options.images.iterdir():
        for part, copies in (("train", options.copies), ("val", 1)):
            (root / part / folder.name).mkdir(parents=True)
            for image in folder.iterdir():
                for copy in range(copies):
                    (root / part / folder.name / f"{image.stem}_{copy}.JPEG").symlink_to(image.resolve())


def differences(options: Options, data: ImageData) -> Section:
    """Random parts of all images, decoded no larger than needed and whole."""
    rows = []
    for resolution in (options.resolution, options.resolution // 2, options.resolution // 4):
        found = pixels_of(data, resolution)
        share = f"{100 * found.smaller / found.parts:.1f} %"
        rows.append([str(resolution), str(found.parts), share, f"{found.difference:.2f}"])
    notes = ["All other parts equal v2.RandomResizedCrop bit for bit."]
    columns = ("resolution", "parts", "decoded smaller", "their mean absolute difference, of 255")
    return Section("Are the pixels the same?", columns, rows, notes)


def pixels_of(data: ImageData, resolution: int) -> Pixels:
    """Compare one part of every image with the same part of it decoded whole."""
    ours, theirs = RandomResizedCrop(resolution), v2.RandomResizedCrop(resolution, antialias=True)
    smaller = []
    for index in range(len(data.train.labels)):
        image = data.train.image(index)
        assert isinstance(image, EncodedImage)
        with torch_seed(index):
            part = ours.choose_part(*image.size())
        with torch_seed(index):
            got = ours(image)
        with torch_seed(index):
            expected = theirs(image.decode())
        if min(part[2:]) >= 2 * resolution:
            smaller.append((got.float() - expected.float()).abs().mean().item())
        elif not torch.equal(got, expected):
            raise invalid("loading", "a part decoded whole must equal torchvision's", image.name)
    return Pixels(len(data.train.labels), len(smaller), float(np.mean(smaller)) if smaller else 0.0)


def decodings(options: Options) -> Section:
    """Milliseconds that each decoder takes for a random part of every file, at full size."""
    decoders: dict[str, JpegDecoder] = {"Pillow": lambda *_: None, "simplejpeg": decode_jpeg}
    if has_turbojpeg():
        decoders["turbojpeg"] = decode_jpeg_by_turbojpeg
    crop = RandomResizedCrop(options.resolution)
    images = encoded(options)
    with torch_seed(0):
        parts = [crop.choose_part(*image.size()) for image in images]
    taken: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(options.runs):
        for name, decoder in decoders.items():
            begin = cpu_seconds()
            for image, part in zip(images, parts, strict=True):
                replace(image, jpeg=decoder).decode_part(part, max(image.size()))
            taken[name].append((cpu_seconds() - begin) / len(images))
    rows = [[name, f"{1e3 * median(seconds):.2f}"] for name, seconds in taken.items()]
    return Section("How long does decoding take?", ("decoder", "ms a part"), rows, [f"{len(images)} random parts."])


def contenders(options: Options, root: Path, data: ImageData) -> dict[str, Callable[[], int]]:
    """Name to a pass over all images; returns their number."""
    ordinary = [transforms.RandomResizedCrop(options.resolution), transforms.RandomHorizontalFlip()]
    to_float = [transforms.ToTensor(), transforms.Normalize(*IMAGENET)]
    jitter = transforms.ColorJitter(**JITTER)
    plain = v2.Compose([RandomResizedCrop(options.resolution), v2.RandomHorizontalFlip()])
    copied, smaller = root.parent / "shards", root.parent / "smaller"
    write_shards(data, copied)
    write_shards(data, smaller, side=options.side)
    small = f"shards:ROOT, --side {options.side}"
    config = DataConfig(resolution=options.resolution)
    shards = {path: load_data(f"shards:{path}", config) for path in (copied, smaller)}

    def torchvisions(*steps: Callable) -> Callable[[], int]:
        folder = datasets.ImageFolder(str(root / "train"), transforms.Compose([*steps]))
        return lambda: sum(len(y) for _, y in DataLoader(folder, options.batch_size, shuffle=True, num_workers=1))

    def ours(data: ImageData) -> Callable[[], int]:
        count = len(data.train.labels)

        def pass_over() -> int:
            batches = training_batches(
                data,
                np.arange(count),
                batch_size=options.batch_size,
                seed=0,
                first_step=0,
                num_steps=count // options.batch_size,
                workers=1,
            )
            return sum(len(batch.labels) for batch in batches)

        return pass_over

    ours_uint8 = replace(data, train_transform=plain, normalise=as_they_are)
    small_uint8 = replace(shards[smaller], train_transform=plain, normalise=as_they_are)
    found = {
        "ImageFolder": torchvisions(*ordinary, *to_float),
        "imagenet:ROOT": ours(replace(data, train_transform=plain)),
        "imagenet:ROOT, uint8": ours(ours_uint8),
        "shards:ROOT, uint8": ours(replace(shards[copied], train_transform=plain, normalise=as_they_are)),
        small: ours(replace(shards[smaller], train_transform=plain)),
        f"{small}, uint8": ours(small_uint8),
        "ImageFolder with ColorJitter": torchvisions(*ordinary, jitter, *to_float),
        "imagenet:ROOT with ColorJitter, uint8": ours(replace(data, normalise=as_they_are)),
    }
    if has_turbojpeg():
        for name, of_name in {"imagenet:ROOT": ours_uint8, small: small_uint8}.items():
            found[f"{name}, uint8, --decoder turbojpeg"] = ours(use_decoder("turbojpeg", of_name))
    return found


def ways_in(options: Options, root: Path, count: int = 1280) -> Section:
    """CPU milliseconds of a batch of 64 images of 32×32 pixels, cropped and flipped, by where they come from."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), np.arange(count) % 10
    for part in ("train", "test"):
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            place = root / part / str(label) / f"{number:06d}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place)
    config = DataConfig(augment="flip-crop")
    pairs = [(Image.fromarray(image), int(label)) for image, label in zip(images, labels, strict=True)]
    arrays = from_arrays((images, labels), (images, labels), config=config)
    one_by_one = replace(arrays, train_transform=arrays.train_transform.forward)  # which no batch knows
    found = {
        "folder of PNG files": load_data(f"folder:{root}", config),
        "data set of PIL images": from_dataset(pairs, pairs, config=config),
        "arrays, image by image": one_by_one,
        "arrays": arrays,
    }
    taken: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(options.runs):
        for name, data in found.items():
            begin, steps = cpu_seconds(), count // 64
            read = {"batch_size": 64, "seed": 0, "first_step": 0, "num_steps": steps, "workers": 0}
            for _batch in training_batches(data, np.arange(count), **read):
                pass
            taken[name].append((cpu_seconds() - begin) / steps)
    first = taken["folder of PNG files"]
    ratios = {name: median(map(lambda a, b: a / b, first, seconds)) for name, seconds in taken.items()}
    rows = [[name, f"{1e3 * median(seconds):.1f}", f"{ratios[name]:.1f}"] for name, seconds in taken.items()]
    notes = [f"{count} images a pass, {options.runs} passes each, interleaved; medians, and medians of the ratios."]
    return Section("Which way in is fast?", ("source", "ms a batch of 64", "times the folder"), rows, notes)


def speeds(options: Options, passes: Mapping[str, Callable[[], int]], count: int) -> Section:
    """Median images a CPU second of each contender, run in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(options.runs):
        for name, pass_over in passes.items():
            before = cpu_seconds()
            loaded = pass_over()
            seconds[name].append((cpu_seconds() - before) / loaded)
    first = seconds["ImageFolder"]
    rows = [
        [name, f"{1 / median(s):.0f}", f"{1e3 * median(s):.2f}", f"{median(map(lambda a, b: a / b, first, s)):.2f}"]
        for name, s in seconds.items()
    ]
    columns = ("loader", "images a CPU second", "ms an image", "times ImageFolder")
    notes = [f"{count} images a pass, {options.runs} passes each, interleaved; medians, and medians of the ratios."]
    return Section("How fast is it?", columns, rows, notes)


def cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(tyro.cli(Options, description=__doc__)))
