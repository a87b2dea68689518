"""What DALI decodes in Pillow's place, where it is installed."""

import io
import multiprocessing
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from fastnas.train.data import load_data, paired_batches
from fastnas.train.data.dali import decode_jpeg
from fastnas.train.data.encoded import EncodedImage, Part, UnreadableImage

installed = pytest.mark.skipif(not find_spec("nvidia") or not find_spec("nvidia.dali"), reason="an extra")
PARTS = [Part(0, 0, 90, 70), Part(3, 5, 40, 20), Part(110, 50, 40, 60), Part(0, 0, 150, 110)]


def saved(image, form="JPEG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def never(content, part):
    raise AssertionError("this is Pillow's")


def test_the_extra_is_missed_in_one_line_before_anything_runs(photos, monkeypatch):
    monkeypatch.setattr("fastnas.train.data.dali._held_by", lambda process: [])
    monkeypatch.setattr("fastnas.train.data.dali.import_module", _nothing)
    with pytest.raises(RuntimeError, match=r"data: decoder dali must find .*, got no such module. Install them: pip"):
        load_data(f"folder:{photos}", decoder="dali")


def _nothing(name):
    raise ImportError("no such module")


def test_it_is_for_files():
    with pytest.raises(ValueError, match="decoder must be pillow unless the data are image files, got dali"):
        load_data("digits", decoder="dali")


@pytest.mark.parametrize("mode", ["CMYK", "P"])
def test_neither_four_colours_nor_other_formats_are_offered(mode):
    content = saved(Image.new(mode, (60, 50)), "JPEG" if mode == "CMYK" else "PNG")
    assert EncodedImage("photo", content, never).decode().shape == (3, 50, 60)


def test_a_part_that_pillow_decodes_smaller_is_left_to_it(photo):
    image = EncodedImage("photo", saved(photo(100, 100)), never)
    assert image.decode_part(Part(0, 0, 80, 80), least=40).shape == (3, 40, 40)
    with pytest.raises(AssertionError, match="Pillow's"):
        image.decode_part(Part(0, 0, 79, 80), least=40)


def test_what_is_not_taken_comes_from_pillow(photo):
    image = EncodedImage("photo", saved(photo(100, 100)))
    refused = EncodedImage("photo", image.content, lambda content, part: None)
    assert torch.equal(refused.decode(), image.decode())


@installed
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_all_parts_are_bit_for_bit_those_of_pillow(photo, mode, options):
    content = saved(photo(150, 110).convert(mode), quality=90, **options)
    for part in PARTS:
        expected = EncodedImage("photo", content).decode_part(part, least=1000)
        got = EncodedImage("photo", content, decode_jpeg).decode_part(part, least=1000)
        assert torch.equal(got, expected)
        assert got.stride() == expected.stride()


@installed
def test_a_camera_that_was_held_upright_changes_nothing(photo):
    turned = Image.Exif()
    turned[0x0112] = 6
    content = saved(photo(150, 110), exif=turned)
    assert torch.equal(decode_jpeg(content, Part(0, 0, 150, 110)), EncodedImage("photo", content).decode())


@installed
def test_a_broken_file_is_complained_of_and_the_next_one_decoded(photo):
    content = saved(photo(150, 110), quality=95)
    broken = EncodedImage("photo", content[: len(content) // 2], decode_jpeg)
    with pytest.raises(UnreadableImage, match="photo must be a readable image, got OSError: image file is trunc"):
        broken.decode()
    whole = EncodedImage("photo", content)
    assert torch.equal(EncodedImage("photo", content, decode_jpeg).decode(), whole.decode())


@installed
@pytest.mark.parametrize("workers", [0, 1])
def test_a_search_sees_the_same_batches(photos, workers):
    def batches(decoder):
        data = load_data(f"folder:{photos}", resolution=100, decoder=decoder)
        with multiprocessing.get_context("spawn").Pool(1) as workers_that_nothing_forks:
            image = workers_that_nothing_forks.apply(data.train.image, (0,))
        assert image.jpeg is (decode_jpeg if decoder == "dali" else None)
        halves = np.arange(8), np.arange(8, 16)
        options = {"batch_size": 4, "seed": 0, "first_step": 0, "num_steps": 2, "search_from_step": 0}
        return [images for pair in paired_batches(data, *halves, **options, workers=workers) for images, _ in pair]

    for mine, theirs in zip(batches("dali"), batches("pillow"), strict=True):
        assert torch.equal(mine, theirs)
