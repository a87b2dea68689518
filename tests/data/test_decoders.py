"""The decoders beside the one that is always there."""

import io
import multiprocessing
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fastnas.data import DataConfig, decoders, load_data, paired_batches
from fastnas.data.broken import UnreadableImage
from fastnas.data.decoders import decode_jpeg_by_turbojpeg, load_turbojpeg
from fastnas.data.encoded import EncodedImage
from fastnas.data.jpeg import Part, decode_jpeg
from fastnas_kernels.check import Unavailable

PARTS = [Part(0, 0, 90, 70), Part(3, 5, 40, 20), Part(110, 50, 40, 60), Part(77, 0, 1, 110), Part(0, 0, 150, 110)]


@pytest.fixture
def decode():
    try:
        load_turbojpeg()
    except Unavailable as error:
        pytest.skip(str(error))
    return decode_jpeg_by_turbojpeg


def saved(image, form="JPEG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def never(*arguments):
    raise AssertionError("this is somebody else's")


@pytest.mark.parametrize("there", [None, "nowhere.so", "of torch"])
def test_libjpeg_turbo_is_missed_in_one_line_and_so_is_an_older_one(photos, monkeypatch, there):
    path = torch._C.__file__ if there == "of torch" else there
    monkeypatch.setattr(decoders, "find_spec", lambda name: None)
    monkeypatch.setattr(decoders, "find_library", lambda name: path)
    decoders.load_turbojpeg.cache_clear()
    line = f"data: decoder turbojpeg must find libjpeg-turbo 3, got none in {path or 'any place'}. Install it: pip"
    with pytest.raises(Unavailable, match=line):
        load_data(f"folder:{photos}", DataConfig(decoder="turbojpeg"))
    decoders.load_turbojpeg.cache_clear()


def test_extras_are_for_files():
    with pytest.raises(ValueError, match="decoder must be simplejpeg unless the data are image files, got turbojpeg"):
        load_data("digits", DataConfig(decoder="turbojpeg"))


@pytest.mark.parametrize("mode", ["CMYK", "P"])
def test_neither_four_colours_nor_other_formats_are_offered(mode):
    content = saved(Image.new(mode, (60, 50)), "JPEG" if mode == "CMYK" else "PNG")
    assert EncodedImage("photo", content, never).decode().shape == (3, 50, 60)


def test_a_part_that_is_decoded_smaller_is_not_offered_to_an_extra(photo, monkeypatch):
    monkeypatch.setattr(decoders, "_decode", never)
    image = EncodedImage("photo", saved(photo(100, 100)), decode_jpeg_by_turbojpeg)
    assert image.decode_part(Part(0, 0, 80, 80), least=40).shape == (3, 40, 40)
    with pytest.raises(AssertionError, match="somebody else's"):
        image.decode_part(Part(0, 0, 79, 80), least=40)


def test_what_an_extra_does_not_take_is_decoded_all_the_same(photo, monkeypatch):
    monkeypatch.setattr(decoders, "_decode", lambda *arguments: None)
    image = EncodedImage("photo", saved(photo(100, 100)))
    assert torch.equal(replace(image, jpeg=decode_jpeg_by_turbojpeg).decode(), image.decode())


@pytest.mark.parametrize(
    "options", [*({"subsampling": s} for s in ("4:4:4", "4:2:2", "4:2:0", "4:1:1")), {"progressive": True}], ids=str
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_all_parts_are_bit_for_bit_those_of_simplejpeg(photo, mode, options, decode):
    image = EncodedImage("photo", saved(photo(150, 110).convert(mode), quality=90, **options))
    for part in PARTS:
        expected = image.decode_part(part, least=1000)
        got = replace(image, jpeg=decode).decode_part(part, least=1000)
        assert torch.equal(got, expected)
        assert got.stride() == expected.stride()


def test_a_camera_that_was_held_upright_changes_nothing(photo, decode):
    turned = Image.Exif()
    turned[0x0112] = 6
    image = EncodedImage("photo", saved(photo(150, 110), exif=turned))
    assert torch.equal(replace(image, jpeg=decode).decode(), image.decode())


def test_a_broken_file_is_complained_of_and_the_next_one_decoded(photo, decode):
    content = saved(photo(150, 110), quality=95)
    broken = EncodedImage("photo", content[: len(content) // 2], decode)
    with pytest.raises(UnreadableImage, match="photo must be a readable image, got OSError: image file is trunc"):
        broken.decode()
    whole = EncodedImage("photo", content)
    assert torch.equal(replace(whole, jpeg=decode).decode(), whole.decode())


def test_a_file_broken_inside_gives_what_simplejpeg_gives_or_a_complaint(photo, decode):
    content, rng = saved(photo(150, 110), quality=95), np.random.default_rng(0)
    for _ in range(20):
        damaged = bytearray(content)
        for place in rng.integers(len(content) // 4, len(content) - 2, 3):
            damaged[place] = rng.integers(256)
        image = EncodedImage("photo", bytes(damaged))
        try:
            expected = image.decode()
        except UnreadableImage:
            with pytest.raises(UnreadableImage):
                replace(image, jpeg=decode).decode()
        else:
            assert replace(image, jpeg=decode).decode().shape == expected.shape


def test_a_process_that_nothing_forks_reads_with_the_same_decoder(photos, decode):
    names = {"simplejpeg": decode_jpeg, "turbojpeg": decode}
    sets = [load_data(f"folder:{photos}", DataConfig(resolution=100, decoder=name)) for name in names]
    with multiprocessing.get_context("spawn").Pool(1) as workers:
        images = [workers.apply(data.train.image, (0,)) for data in sets]
    assert [image.jpeg for image in images] == list(names.values())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_search_sees_the_same_batches(photos, workers, decode):
    def batches(name):
        data = load_data(f"folder:{photos}", DataConfig(resolution=100, decoder=name))
        halves = np.arange(8), np.arange(8, 16)
        options = {"batch_size": 4, "seed": 0, "first_step": 0, "num_steps": 2, "search_from_step": 0}
        return [images for pair in paired_batches(data, *halves, **options, workers=workers) for images, _ in pair]

    for mine, theirs in zip(batches("turbojpeg"), batches("simplejpeg"), strict=True):
        assert torch.equal(mine, theirs)
