"""Write a folder of images as a few tar files in WebDataset's form, with a table of where each image begins."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import arg

from fastnas.cli.options import quote_command
from fastnas.data import load_data, write_shards
from fastnas.experiment.settings import DATA_HELP


@dataclass(frozen=True, kw_only=True)
class Shards:
    """Write a folder of images as a few tar files in WebDataset's form, with a table of where each image begins.

    Args:
        data: Where the images come from.
        out: The folder, a new one; then name it as shards:FOLDER.
        images_per_shard: Images of a tar file.
        side: Shorter side in pixels to bring larger images to, as JPEG of quality 90; unset to copy every file as it
            is.
    """

    data: Annotated[str, arg(help=DATA_HELP)]
    out: Path
    images_per_shard: int = 10_000
    side: int | None = None


def run(command: Shards, console: Console) -> None:
    """Write the shards."""
    data = load_data(command.data)
    write_shards(data, command.out, command.images_per_shard, command.side)
    counts = f"{len(data.train.labels)} images to train on, {len(data.test.labels)} to test on"
    line = f"shards: {command.out}   ({counts}; use them: {quote_command('--data', f'shards:{command.out}')})"
    console.out(line)
