"""Images that cannot be read: named in one line, or skipped and counted up to a limit."""

from pathlib import Path

from PIL import Image

from fastnas.errors import complaint
from fastnas.files import append_json_line
from fastnas.run_files import BrokenImage, read_records

# What PIL raises for files that are no images, or broken ones: among others SyntaxError for PNG, ValueError for PPM
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


class UnreadableImage(ValueError):
    """A file that holds no image, or a broken one.

    Args:
        name: The file.
        got: What is wrong with it.
    """

    rule, remedy = "be a readable image", "Replace or delete the file."

    def __init__(self, name: str, got: str) -> None:
        super().__init__(complaint("data", f"{name} must {self.rule}", got, self.remedy))
        self.name, self.got = name, got

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.name, self.got)


class UnsupportedImage(UnreadableImage):
    """A file whose values have no defined range, so that nothing says what is black and what is white."""

    rule = "hold values of a defined range: 8 bits, or 16 bits of grey"
    remedy = "Convert it, or scale the values yourself: fastnas.data.from_arrays."


class BrokenImages:
    """The images of a run that could not be read.

    Args:
        limit: How many there may be, each counted once.
        path: A file of JSON lines that lists them, so that a run that goes on goes on counting; ``None`` for none.
    """

    def __init__(self, limit: int = 0, path: Path | None = None) -> None:
        self.limit, self.path = limit, path
        self.names = {record["image"] for record in read_records(path, BrokenImage)} if path is not None else set()

    def add(self, error: UnreadableImage) -> None:
        """Count an image."""
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


def describe_error(error: BaseException) -> str:
    """The kind of an error and the first sentence of what it says."""
    return f"{type(error).__name__}: {first_sentence(error)}"


def first_sentence(error: BaseException) -> str:
    """Of what an error says, in one line."""
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")
