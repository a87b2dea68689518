"""The two commands that prepare data: `fastnas index` and `fastnas shards`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import arg

from fastnas.data import load_data, write_index, write_shards
from fastnas.experiment.experiment import DATA_HELP


@dataclass(frozen=True, kw_only=True)
class Index:
    """Choose which images a search uses, class by class, and keep their numbers in a file; nothing is copied.

    Args:
        data: Where the images come from.
        fractions: Shares of every class for the weights and for alpha.
        seed: Decides which images.
        out: The file, JSON.
    """

    data: Annotated[str, arg(help=DATA_HELP)]
    fractions: tuple[float, float] = (0.1, 0.025)
    seed: int = 0
    out: Path = Path("index.json")


@dataclass(frozen=True, kw_only=True)
class Shards:
    """Write a folder of images as a few tar files in WebDataset's form, with a table of where each image begins.

    Args:
        data: imagenet:ROOT or folder:ROOT.
        out: The folder, a new one; then name it as shards:FOLDER.
        images_per_shard: Images of a tar file.
        side: Shorter side in pixels to bring larger images to, as JPEG of quality 90; unset to copy every file as it
            is.
    """

    data: str
    out: Path
    images_per_shard: int = 10_000
    side: int | None = None


def run_index(command: Index, console: Console) -> None:
    """Write the index file that ``command`` describes."""
    halves = write_index(command.out, load_data(command.data), command.fractions, command.seed)
    counts = f"{len(halves.weights)} images for the weights, {len(halves.alpha)} for alpha"
    console.print(f"index: {command.out}   ({counts}; use it: --index {command.out})", highlight=False, soft_wrap=True)


def run_shards(command: Shards, console: Console) -> None:
    """Write the shards that ``command`` describes."""
    data = load_data(command.data)
    write_shards(data, command.out, command.images_per_shard, command.side)
    counts = f"{len(data.train.labels)} images to train on, {len(data.test.labels)} to test on"
    console.print(f"shards: {command.out}   ({counts}; use them: --data shards:{command.out})", soft_wrap=True)
