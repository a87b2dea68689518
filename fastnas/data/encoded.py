"""Images as they lie in files, decoded no larger than somebody needs them."""

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastnas.data.broken import UNREADABLE, UnreadableImage, UnsupportedImage, describe_error
from fastnas.data.jpeg import JpegDecoder, Part, cut, decode_jpeg, read_frame, rows_to_read, with_height

END = b"\xff\xd9"  # of a JPEG file
DIVISORS = (8, 4, 2)  # of both sides, which a JPEG decoder can apply while it inverts the cosine transform


@dataclass(frozen=True)
class EncodedImage:
    """The content of an image file; grey ones, palettes, transparency and CMYK all become RGB of 8 bits.

    Args:
        name: The file, for complaints.
        content: Its bytes.
        jpeg: Decodes the JPEG files that it takes; all others, and other formats, are Pillow's.
    """

    name: str
    content: bytes
    jpeg: JpegDecoder = decode_jpeg

    def size(self) -> tuple[int, int]:
        """Height and width in pixels, from the head of the file."""
        head = read_frame(self.content)
        if head is not None:
            height, width = head.height, head.width
        else:
            try:
                with Image.open(io.BytesIO(self.content)) as image:
                    height, width = image.height, image.width
            except UNREADABLE as error:
                raise UnreadableImage(self.name, describe_error(error)) from None
        if min(height, width) == 0:
            raise UnreadableImage(self.name, f"{height} by {width} pixels")
        return height, width

    def find_highest_of_16_bits(self) -> int | None:
        """The largest value of a grey image of 16 bits; ``None`` for others."""
        if self.content.startswith(b"\xff\xd8"):
            return None
        with Image.open(io.BytesIO(self.content)) as image:
            return int(np.array(image).max()) if image.mode.startswith("I;16") else None

    def decode(self) -> Tensor:
        """All pixels, uint8 ``[3, H, W]``."""
        return self._decode(Part(0, 0, *self.size()), 1)

    def decode_part(self, part: Part, least: int) -> Tensor:
        """The pixels of a part of the image, uint8 ``[3, height, width]``, or fewer of them.

        If both sides of the part are at least 2, 4 or 8 times ``least``, a JPEG file is decoded to that fraction of its
        size, by a smaller inverse cosine transform. The borders are rounded to whole pixels of the smaller image.
        Rows below the part are not decoded, which changes nothing.

        Args:
            part: Which, in pixels of the whole image.
            least: The sides of what is returned are no shorter, if those of ``part`` are not.
        """
        return self._decode(part, next((by for by in DIVISORS if min(part[2:]) >= by * least), 1))

    def _decode(self, part: Part, divisor: int) -> Tensor:
        head = read_frame(self.content)
        # Decoders make up what is missing at the end; only Pillow complains
        if head is not None and head.is_common and self.content.endswith(END):
            pixels = self.jpeg(self.content, head, part, divisor)
            if pixels is not None:
                return pixels
        content = self.content if head is None else with_height(self.content, head, rows_to_read(head, part))
        try:
            with Image.open(io.BytesIO(content)) as image:
                if image.format != "JPEG":
                    divisor = 1
                if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
                    raise UnsupportedImage(self.name, f"mode {image.mode}")
                image.draft(None, (image.width // divisor, image.height // divisor))
                return cut(_pixels(image), part, divisor)
        except UnsupportedImage:
            raise
        except UNREADABLE as error:
            raise UnreadableImage(self.name, describe_error(error)) from None


def _pixels(image: Image.Image) -> Tensor:
    """uint8 ``[H, W, 3]``; 16 bits of grey are scaled to 8."""
    image.load()
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):  # 0 to 65535 in both
        grey = ((np.array(image).astype(np.uint32) + 128) // 257).astype(np.uint8)
        return torch.from_numpy(np.repeat(grey[:, :, None], 3, axis=2))
    return torch.from_numpy(np.array(image if image.mode == "RGB" else image.convert("RGB")))
