"""JPEG files decoded by NVIDIA DALI on the CPU, an extra: ``pip install fastnas[dali]``.

It gives the bits that simplejpeg gives. One image at a time goes through it in the process that asks, so
that the batch of a step stays a function of seed and step, and an image that cannot be read stays one image.
"""

import os
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastnas.data.encoded import first_sentence
from fastnas.data.jpeg import Frame, Part
from fastnas_kernels.check import Unavailable, complaint


def require_dali() -> None:
    """
    Raises:
        Unavailable: If DALI or its decoders are not installed.
    """
    try:
        _pipeline()
    except (ImportError, RuntimeError) as error:
        rule, remedy = "decoder dali must find NVIDIA DALI and its decoders", "Install them: pip install fastnas[dali]."
        raise Unavailable(complaint("data", rule, first_sentence(error), remedy)) from None


def decode_by_dali(content: bytes, head: Frame, part: Part) -> Tensor | None:
    """A part of a JPEG file, uint8 ``[3, height, width]``; ``None`` if DALI does not decode it."""
    pipeline = _pipeline()
    pipeline.feed_input("content", [np.frombuffer(content, np.uint8)])
    pipeline.feed_input("corner", [np.array(part[:2], np.int32)])
    pipeline.feed_input("sides", [np.array(part[2:], np.int32)])
    try:
        (pixels,) = pipeline.run()
    except RuntimeError:
        _held_by(os.getpid()).clear()  # one that has failed serves no longer
        return None
    return torch.from_numpy(np.array(pixels.at(0))).movedim(-1, 0)


@cache
def _held_by(process: int) -> list[Any]:
    """The pipeline of a process, once there is one.

    After a fork it still holds that of its parent, whose threads are not there: it can be neither used nor destroyed.
    """
    return []


def _pipeline() -> Any:
    held = _held_by(os.getpid())
    if not held:
        held.append(_built())
    return held[0]


def _built() -> Any:
    dali = import_module("nvidia.dali")

    @dali.pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def decode() -> Any:
        content, *part = (dali.fn.external_source(name=name, no_copy=True) for name in ("content", "corner", "sides"))
        # Pillow does not turn photographs, whatever their cameras have noted
        return dali.fn.decoders.image_slice(content, *part, axis_names="HW", adjust_orientation=False)

    pipeline = decode()
    pipeline.build()
    return pipeline
