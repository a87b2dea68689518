"""TensorBoard event files."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class EventWriter:
    """Writes the numbers of an epoch's record as TensorBoard scalars; use it in a ``with`` block.

    Args:
        folder: Where the event files go. A resumed run adds a file; TensorBoard shows the last value of a step.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: SummaryWriter | None = None

    def write(self, prefix: str, record: Mapping[str, Any]) -> None:
        """Write every number of ``record``, and of the dictionaries in it, at the record's epoch."""
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (half a second that other commands save)

        writer = self.writer = self.writer or SummaryWriter(str(self.folder), purge_step=record["epoch"])
        for name, value in record.items():
            if isinstance(value, int | float) and name not in ("epoch", "epochs"):
                writer.add_scalar(f"{prefix}/{name}", value, record["epoch"])
            elif isinstance(value, Mapping):
                for part, number in value.items():
                    if isinstance(number, int | float):
                        writer.add_scalar(f"{prefix}/{name}/{part}", number, record["epoch"])
        writer.flush()

    def __enter__(self) -> "EventWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.writer is not None:
            self.writer.close()
