"""What to do with the images of a source."""

from dataclasses import dataclass
from math import inf
from typing import Literal

from fastnas.errors import invalid, require_field_types
from fastnas.files import STRICT
from fastnas.supernet.layout import Fit, Resolution, height_and_width

WHERE = "data"
LARGEST = 4096  # pixels; a batch of such images is several GB
SMALLEST = 8  # pixels; a search space halves them twice
TaskName = Literal["classification", "multi_label", "regression", "dense"]
Decoder = Literal["simplejpeg", "turbojpeg"]
Augment = Literal["none", "crop", "flip-crop", "photo", "auto"]
Colour = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How images are fetched, decoded, brought to one size and augmented.

    Args:
        download: Fetch CIFAR into ROOT if it is not there.
        resolution: Height and width in pixels to bring images to, or one number for squares; unset for that of the
            data.
        fit: How images of another shape get there: squeeze changes their proportions, pad adds black borders, crop cuts
            off what hangs over; unset to crop photographs and to squeeze small images.
        image_channels: 3 for colour, 1 for grey; unset to look at the training images.
        augment: Changes to training images: none, crop (a shift by up to an eighth), flip-crop (and mirrored), photo (a
            random part, mirrored, other colours), auto (AutoAugment behind a crop and a flip); unset for that of the
            data, which is no flip for grey images.
        colour: Largest changes of brightness, contrast, saturation and hue that photo makes; unset for DARTS's 0.4,
            0.4, 0.4 and 0.2.
        task: What the labels of arrays are: classification, multi_label (0 or 1, [N, labels]), regression (numbers [N]
            or [N, D]) or dense (a class for each place, [N, H, W]).
        decoder: Of JPEG files; all give the same bits, and turbojpeg, where it is installed, in the least time.
    """

    __pydantic_config__ = STRICT

    download: bool = False
    resolution: Resolution | None = None
    fit: Fit | None = None
    image_channels: Literal[1, 3] | None = None
    augment: Augment | None = None
    colour: Colour | None = None
    decoder: Decoder = "simplejpeg"
    task: TaskName = "classification"

    def __post_init__(self) -> None:
        require_field_types(self)
        if self.resolution is not None and min(height_and_width(self.resolution)) < SMALLEST:
            raise invalid(WHERE, f"resolution must be at least {SMALLEST} pixels", self.resolution)
        if self.resolution is not None and max(height_and_width(self.resolution)) > LARGEST:
            raise invalid(WHERE, f"resolution must be at most {LARGEST} pixels", self.resolution)
        check_colour(self.colour)


def check_colour(colour: Colour | None) -> None:
    """Raise unless the changes of the colours are not negative, and that of the hue at most half a circle."""
    if colour is not None and not (all(0 <= change < inf for change in colour) and colour[3] <= 0.5):
        raise invalid(WHERE, "colour must be four numbers that are not negative, the last at most 0.5", colour)
