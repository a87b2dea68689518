"""TensorBoard event files, and the numbers of a record for other trackers."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

SQUARE = 12  # pixels of a coefficient in a picture


def leaves(nest: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values in dictionaries of dictionaries, with the keys that lead to them, joined by slashes."""
    for key, value in nest.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def numbers(nest: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of an epoch's record, or of ``dataclasses.asdict(config)``, for a tracker of experiments.

    Args:
        nest: Dictionaries of dictionaries; texts and lists in it are left out.
        prefix: Of the names.

    Example:
        >>> numbers({"epoch": 3, "genotype": "...", "entropy": {"normal": 1.5}})
        {'epoch': 3, 'entropy/normal': 1.5}
    """
    return {name: value for name, value in leaves(nest, prefix) if isinstance(value, int | float)}


class EventWriter:
    """Writes the numbers of an epoch's record as TensorBoard scalars; use it in a ``with`` block.

    Coefficients are pictures, an edge a row and a primitive a column, and alpha is a histogram.

    Args:
        folder: Where the event files go. A resumed run adds a file; TensorBoard shows the last value of a step.
        settings: Of the run, for TensorBoard's page of hyper-parameters.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.folder, self.settings = folder, settings
        self.writer: SummaryWriter | None = None

    def write(self, prefix: str, record: Mapping[str, Any]) -> None:
        """Write what ``record`` holds at the record's epoch."""
        epoch, found = record["epoch"], numbers(record, f"{prefix}/")
        names = [name for name in found if name not in (f"{prefix}/epoch", f"{prefix}/epochs")]
        writer = self._begun(epoch, [name for name in names if name.endswith(("accuracy", "loss", "score"))])
        for name in names:
            writer.add_scalar(name, found[name], epoch)
        for cell_type, rows in record.get("mix", {}).items():
            writer.add_image(f"{prefix}/coefficients/{cell_type}", _squares(rows), epoch)
        for cell_type, rows in record.get("alpha", {}).items():
            writer.add_histogram(f"{prefix}/alpha/{cell_type}", torch.tensor(rows).flatten(), epoch)
        writer.flush()

    def draw(self, name: str, figure: Any, epoch: int) -> None:
        """Write a figure of Matplotlib."""
        self._begun(epoch, []).add_figure(name, figure, epoch)

    def _begun(self, epoch: int, metrics: Iterable[str]) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (half a second that other commands save)
        from torch.utils.tensorboard.summary import hparams  # noqa: PLC0415

        if self.writer is None:
            self.writer = SummaryWriter(str(self.folder), purge_step=epoch)
            if self.settings is not None:
                shown = {name: value for name, value in leaves(self.settings) if isinstance(value, int | float | str)}
                for summary in hparams(shown, dict.fromkeys(metrics, 0.0)):
                    self.writer.file_writer.add_summary(summary)  # type: ignore[union-attr]
        return self.writer

    def __enter__(self) -> "EventWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.writer is not None:
            self.writer.close()


def _squares(rows: list[list[float]]) -> torch.Tensor:
    """Coefficients ``[E, K]`` in [0, 1] as a grey picture ``[1, height, width]``, dark where they are large."""
    return 1 - torch.tensor(rows).clamp(0, 1).kron(torch.ones(SQUARE, SQUARE))[None]
