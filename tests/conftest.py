"""What all tests share."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

if not torch.cuda.is_available():
    # Triton decides at each `@triton.jit` whether to interpret: this must stand before anything imports it
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The tensors of tests are tiny: two threads that wait for each other on a busy machine take ten times as long
torch.set_num_threads(1)


# What takes longest, in that order. Tests of a file stay together, since they share what is made once for them; so that
# no process waits for another in the end, the last files have to be short
LONGEST = (
    "checks/test_check.py",
    "kernels/mixed_op/test_fused_cell.py",
    "methods/test_library.py",
    "cli/test_main.py",
    "kernels/mixed_op/test_fused_derivatives.py",
    "acceleration/test_accelerate.py",
    "engine/test_together.py",
    "engine/test_recompute.py",
    "memory/test_prediction.py",
    "experiment/test_several_processes.py",
    "engine/test_loop.py",
    "experiment/test_search_in_a_chain.py",
)


def pytest_collection_modifyitems(items):
    place = {Path(__file__).parent / name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))  # stable


def pytest_collection_finish():
    """All that was imported stays: without this, every collection of garbage would look through all of it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _same_torch_state():
    """Every test starts from the same global generator and leaves the number of threads alone."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == threads


DRAWN = "fastnas.report.page.svg"
RUN_WHOLE = ("cli", "data", "experiment")
"""Folders whose tests read of a report its text alone: drawing takes longer than their searches. tests/report looks at
figures, and the processes of their own that these folders start draw them."""


@pytest.fixture(scope="module", autouse=True)
def _figures_are_not_drawn(request):
    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent.name in RUN_WHOLE:
            patch.setattr(DRAWN, lambda figure: "<svg/>")
        yield


@pytest.fixture
def photo():
    """From a height, a width and a seed to a smooth image: noise is not what JPEG is made for."""

    def make(height, width, seed=0):
        coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)

    return make


@pytest.fixture
def photos(tmp_path, photo):
    """An image folder of photographs that all differ: two classes, eight to train on and four to test on in each."""
    for part, count in (("train", 8), ("val", 4)):
        for c, name in enumerate(("cat", "dog")):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                photo(100 + 8 * i, 120, seed=100 * count + 10 * c + i).save(folder / f"{i}.JPEG", quality=90)
    return tmp_path / "photos"
