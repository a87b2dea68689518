"""From an image of any size to what a network reads."""

from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import center_crop, pad, pil_to_tensor, resize, rgb_to_grayscale

from fastnas.errors import invalid
from fastnas.supernet.layout import Fit


def read_pixels(image: Image.Image, channels: int) -> Tensor:
    """An image of 8 bits a channel as uint8 ``[channels, H, W]``."""
    plain = image if image.mode in ("L", "RGB") else image.convert("RGB")
    return with_channels(pil_to_tensor(plain), channels)


def with_channels(image: Tensor, channels: int) -> Tensor:
    """A grey image in colour, or a coloured one in grey; grey ones of three equal channels keep their values."""
    if len(image) == channels:
        return image
    if channels == 3 and len(image) == 1:
        return image.expand(3, -1, -1)
    if channels == 1 and len(image) == 3:
        return image[:1] if is_grey(image) else rgb_to_grayscale(image)
    raise invalid("data", f"every image must have {channels} channels", len(image), "Set --image-channels.")


def is_grey(image: Tensor) -> bool:
    """Whether all channels are the same."""
    return len(image) == 1 or bool((image[0] == image[1]).all() and (image[0] == image[2]).all())


class FitTo(nn.Module):
    """Bring an image to a size.

    Args:
        size: Height and width in pixels.
        how: ``squeeze``, ``pad`` or ``crop``; see :class:`fastnas.data.DataConfig`.
        margin: Of ``crop``: the image covers a size larger by 256/224, of which the centre is cut out.
    """

    def __init__(self, size: tuple[int, int], how: Fit, margin: bool = False) -> None:
        super().__init__()
        self.size, self.how = size, how
        self.covered = (size[0] * 256 // 224, size[1] * 256 // 224) if margin else size

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        if (height, width) == self.size and self.covered == self.size:
            return image
        if self.how == "squeeze":
            return resize(image, list(self.size), antialias=True)
        rows, columns = self.covered if self.how == "crop" else self.size
        by_height = (height * columns <= width * rows) == (self.how == "crop")
        new = (
            (rows, max(1, int(rows * width / height)))
            if by_height
            else (max(1, int(columns * height / width)), columns)
        )
        image = resize(image, list(new), antialias=True)
        if self.how == "crop":
            return center_crop(image, list(self.size))
        left, top = (self.size[1] - new[1]) // 2, (self.size[0] - new[0]) // 2
        return pad(image, [left, top, self.size[1] - new[1] - left, self.size[0] - new[0] - top])
