import contextlib
import io
import pickle
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

from fastnas.data.broken import UnreadableImage
from fastnas.data.encoded import EncodedImage
from fastnas.data.jpeg import Part, decode_jpeg, read_frame
from fastnas.data.transforms import RandomResizedCrop
from fastnas.seeds import torch_seed


def encoded(image, form="JPEG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return EncodedImage("photo", file.getvalue())


def choose_part(pixels, part):
    return pixels[:, part.top : part.top + part.height, part.left : part.left + part.width]


PARTS = [Part(0, 0, 90, 70), Part(3, 5, 40, 20), Part(110, 50, 40, 60), Part(77, 0, 1, 110), Part(0, 0, 150, 110)]


@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}], ids=str)
@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_bit_for_bit_that_of_the_whole_image_whatever_is_left_undecoded_below_it(photo, options, part):
    image = encoded(photo(150, 110), quality=90, **options)
    assert torch.equal(image.decode_part(part, least=1000), choose_part(image.decode(), part))


def by_pillow(content, head, part, divisor):
    return None


@pytest.mark.parametrize(
    "options", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}], ids=str
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("least", [1000, 80, 40, 20])
def test_libjpeg_turbo_gives_bit_for_bit_what_pillow_gives(photo, mode, options, least):
    image, part = encoded(photo(301, 403).convert(mode), quality=90, **options), Part(41, 63, 163, 241)
    assert decode_jpeg(image.content, read_frame(image.content), part, 1) is not None
    expected = replace(image, jpeg=by_pillow).decode_part(part, least)
    assert torch.equal(image.decode_part(part, least), expected)
    assert torch.equal(image.decode(), replace(image, jpeg=by_pillow).decode())


def test_sizes_beyond_belief_are_pillows(photo):
    content = encoded(photo(150, 110)).content
    place = content.index((150).to_bytes(2) + (110).to_bytes(2))
    bomb = content[:place] + (60000).to_bytes(2) * 2 + content[place + 4 :]
    with pytest.raises(UnreadableImage, match="DecompressionBombError"):
        EncodedImage("the file", bomb).decode()


def test_nothing_is_said_of_the_rows_that_are_not_read(photo, capfd):
    encoded(photo(150, 110), quality=90).decode_part(PARTS[0], least=1000)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_files_become_rgb_in_part_and_whole(photo, mode):
    image = encoded(photo(150, 110).convert(mode))
    expected = pil_to_tensor(Image.open(io.BytesIO(image.content)).convert("RGB"))
    assert torch.equal(image.decode(), expected)
    assert torch.equal(image.decode_part(PARTS[1], least=1000), choose_part(expected, PARTS[1]))


@pytest.mark.parametrize(("least", "shrink"), [(81, 1), (80, 2), (41, 2), (40, 4), (20, 8), (5, 8)])
def test_a_part_is_decoded_at_the_smallest_fraction_that_is_large_enough(photo, least, shrink):
    image, part = encoded(photo(300, 400), quality=95), Part(40, 64, 160, 240)
    pixels = image.decode_part(part, least)
    assert pixels.shape == (3, 160 // shrink, 240 // shrink)
    # The same place at the same scale: a smooth image is its own average over squares of `shrink` pixels
    means = torch.nn.functional.avg_pool2d(choose_part(image.decode(), part).float(), shrink)
    assert (pixels.float() - means).abs().mean() < 1  # of 255: rounding, twice


def test_formats_other_than_jpeg_come_whole(photo):
    image, part = encoded(photo(300, 400), "PNG"), Part(40, 64, 160, 240)
    assert torch.equal(image.decode_part(part, least=20), choose_part(image.decode(), part))


@pytest.mark.parametrize("seed", range(8))
def test_a_crop_that_is_decoded_whole_equals_torchvisions_of_the_same_seed(photo, seed):
    image = encoded(photo(150, 200), quality=90)
    with torch_seed(seed):
        ours = RandomResizedCrop(101)(image)
    with torch_seed(seed):
        assert torch.equal(ours, v2.RandomResizedCrop(101, antialias=True)(image.decode()))
    with torch_seed(seed):
        assert torch.equal(ours, RandomResizedCrop(101)(image.decode()))


@pytest.mark.parametrize("seed", range(8))
def test_a_crop_that_is_decoded_smaller_is_of_the_same_part_and_nearly_equal(photo, seed):
    image = encoded(photo(600, 800), quality=90)
    with torch_seed(seed):
        ours = RandomResizedCrop(32, scale=(0.5, 1.0))(image)
    with torch_seed(seed):
        theirs = v2.RandomResizedCrop(32, scale=(0.5, 1.0), antialias=True)(image.decode())
    assert ours.shape == (3, 32, 32)
    # Half a pixel of the smaller image is up to half a pixel of 32; eight colours over 32 pixels differ by 64 of 255
    # each, hence by 16 a pixel in the mean and 8 in half a pixel
    assert (ours.float() - theirs.float()).abs().mean() < 8


@pytest.mark.parametrize("cut", [0, 1, 20, 300, -40], ids=str)
def test_a_truncated_file_is_named_whatever_part_is_asked_for(photo, cut):
    whole = encoded(photo(150, 110), quality=90)
    image = EncodedImage("the file", whole.content[:cut])
    for read in (image.decode, lambda: image.decode_part(Part(100, 0, 50, 110), 1000)):
        with pytest.raises(UnreadableImage, match=r"data: the file must be a readable image, got .*Replace or delete"):
            read()


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=str)
def test_the_size_is_read_without_decoding(photo, form, options):
    assert encoded(photo(150, 110), form, **options).size() == (150, 110)


def test_a_head_that_names_no_rows_is_no_readable_image(photo):
    content = encoded(photo(150, 110)).content
    place = content.index((150).to_bytes(2) + (110).to_bytes(2))
    image = EncodedImage("the file", content[:place] + bytes(2) + content[place + 2 :])
    with pytest.raises(UnreadableImage, match="got 0 by 110 pixels"):
        RandomResizedCrop(32)(image)


@pytest.mark.parametrize("seed", range(20))
def test_random_damage_to_the_head_is_an_unreadable_image_or_none(photo, seed):
    content, rng = bytearray(encoded(photo(60, 50)).content), torch.Generator().manual_seed(seed)
    for place in torch.randint(2, 200, (6,), generator=rng).tolist():
        content[place] = int(torch.randint(256, (), generator=rng))
    with contextlib.suppress(UnreadableImage):
        assert RandomResizedCrop(32)(EncodedImage("the file", bytes(content))).shape == (3, 32, 32)


def test_what_is_wrong_with_an_image_survives_the_way_from_a_worker_process():
    error = pickle.loads(pickle.dumps(UnreadableImage("a.jpg", "OSError: no")))
    assert (error.name, error.got) == ("a.jpg", "OSError: no")
    assert str(error) == str(UnreadableImage("a.jpg", "OSError: no"))
