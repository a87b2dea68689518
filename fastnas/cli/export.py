"""Write the trained network of a run for other programs, and check what was written on random input."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from tyro.conf import Positional

from fastnas.networks.export import ENDINGS, TOLERANCE, Format, describe_outputs, export
from fastnas.networks.model import load


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the trained network of a run for other programs, and check what was written on random input.

    Args:
        run: A run folder, that of a retraining, or a model folder.
        space: FILE.py:NAME or module:name of the network's space, if that has operations of your own.
        to: onnx, torch-export or torchscript.
        out: The file; by default RUN/model.onnx, .pt2 or .pt.
        dynamic_batch: Take any number of images; otherwise one.
        with_preprocessing: Take values in [0, 255], or in the unit of the arrays, instead of normalised ones, and give
            the numbers of a regression in the unit of its targets instead of standardised ones.
    """

    run: Positional[Path]
    space: str | None = None
    to: Format = "onnx"
    out: Path | None = None
    dynamic_batch: bool = False
    with_preprocessing: bool = False


def run(command: Export, console: Console) -> None:
    """Write the file."""
    model = load(command.run, space=command.space)
    out = command.out or command.run / f"model{ENDINGS[command.to]}"
    difference = export(
        model, out, command.to, dynamic_batch=command.dynamic_batch, with_preprocessing=command.with_preprocessing
    )
    what = "outputs" if model.task.name == "regression" else "logits"
    console.out(f"exported: {out}   ({what} on random input differ by {difference:.1e}, allowed {TOLERANCE:.0e})")
    console.out(f"output: {describe_outputs(model, command.with_preprocessing)}")
