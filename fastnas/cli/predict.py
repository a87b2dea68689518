"""Say which classes images belong to, by the trained network of a run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor
from tyro.conf import Positional

from fastnas.errors import invalid
from fastnas.networks.model import load
from fastnas.ranks import torch_device
from fastnas.tasks import Dense, Regression


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Say which classes images belong to, by the trained network of a run.

    Args:
        run: A run folder, that of a retraining, or a model folder.
        space: FILE.py:NAME or module:name of the network's space, if that has operations of your own.
        images: Image files.
        top: Classes to name for each image.
        masks: A folder for the class of every place, a PNG file an image, of a network of a dense task.
        json: Print JSON, a list with an entry an image.
        batch_size: Images in one pass.
        device: Where to run; auto takes a GPU if there is one.
    """

    run: Positional[Path]
    images: Positional[tuple[Path, ...]]
    space: str | None = None
    top: int = 5
    masks: Path | None = None
    json: bool = False
    batch_size: int = 64
    device: str = "auto"


def run(command: Predict, console: Console) -> None:
    """Print the classes."""
    model = load(command.run, str(torch_device(command.device)), space=command.space)
    gives_numbers = isinstance(model.task, Regression)
    top = len(model.classes) if gives_numbers else min(command.top, len(model.classes))
    what, number = ("output", "value") if gives_numbers else ("class", "probability")
    number = "share of places" if isinstance(model.task, Dense) else number
    if command.masks is not None and not isinstance(model.task, Dense):
        raise invalid("predict", "--masks needs a network of a dense task", model.task.name)
    if command.masks is not None:
        _require_masks(command.images, len(model.classes))
    table, entries = Table("image", what, number), []
    for start in range(0, len(command.images), command.batch_size):
        files = command.images[start : start + command.batch_size]
        answers = model.predict(list(files))
        if isinstance(model.task, Dense):
            if command.masks is not None:
                _save_masks(answers, files, command.masks)
            answers = _shares(answers)
        order = answers.sort(dim=1, descending=True, stable=True).indices
        order = torch.arange(top).expand(len(answers), top) if gives_numbers else order[:, :top].cpu()
        for file, values, indices in zip(files, answers.cpu().gather(1, order).tolist(), order.tolist(), strict=True):
            found = [{what: model.classes[i], number: p} for i, p in zip(indices, values, strict=True)]
            entries.append({"image": str(file), "outputs" if gives_numbers else "classes": found})
            for row, one in enumerate(found):
                table.add_row(Text(str(file) if row == 0 else ""), Text(one[what]), f"{one[number]:.4f}")
    if command.json:
        console.out(json.dumps(entries, indent=2))
    else:
        console.print(table)


def _shares(probabilities: Tensor) -> Tensor:
    """The share of an image's places that each class is most likely at, ``[N, C]``."""
    classes = probabilities.argmax(1)
    shares = [(classes == number).flatten(1).double().mean(1) for number in range(probabilities.shape[1])]
    return torch.stack(shares, 1)


def _require_masks(files: Sequence[Path], classes: int) -> None:
    if classes > 256:
        raise invalid("predict", "--masks holds a class in a byte: there must be at most 256", classes)
    stems = [file.stem for file in files]
    if twice := [stem for stem in dict.fromkeys(stems) if stems.count(stem) > 1]:
        rule = "--masks names each file by its image: their names must differ"
        raise invalid("predict", rule, twice[0], "Predict them one after another, each into a folder of its own.")


def _save_masks(probabilities: Tensor, files: Sequence[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file, classes in zip(files, probabilities.argmax(1).to(torch.uint8).cpu(), strict=True):
        Image.fromarray(classes.numpy()).save(folder / f"{file.stem}.png")
