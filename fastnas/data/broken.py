"""Images that cannot be read: skipped and counted, up to a limit."""

from pathlib import Path

from fastnas.data.encoded import UnreadableImage
from fastnas.files import append_json_line, read_json_lines
from fastnas_kernels.check import complaint


class BrokenImages:
    """The images of a run that could not be read.

    Args:
        limit: How many there may be, each counted once.
        path: A file of JSON lines that lists them, so that a run that goes on goes on counting; ``None`` for none.
    """

    def __init__(self, limit: int = 0, path: Path | None = None) -> None:
        self.limit, self.path = limit, path
        self.names = {record["image"] for record in read_json_lines(path)} if path is not None else set()

    def add(self, error: UnreadableImage) -> None:
        """Count an image.

        Raises:
            ValueError: If it is one too many.
        """
        if error.name in self.names:
            return
        if len(self.names) >= self.limit:
            got = f"{error.name} ({error.got}) after {len(self.names)} others"
            remedy = "Replace or delete the files, or raise --max-broken."
            rule = f"at most {self.limit} images may be unreadable"
            raise error if self.limit == 0 else ValueError(complaint("data", rule, got, remedy))
        self.names.add(error.name)
        if self.path is not None:
            append_json_line(self.path, {"image": error.name, "reason": error.got})
