"""The dtype of sums, the memory layouts in which kernels read several tensors side by side, and what tells storages."""

from collections.abc import Sequence

import torch
from torch import Tensor


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums and statistics of numbers of ``dtype``: float32, and float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def common_strides(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """The dense layout that most of ``tensors``, all of one shape, are in; contiguous if none of them is dense."""
    first = tensors[0].stride()
    if _is_dense(tensors[0]) and all(x.stride() == first for x in tensors):
        return first
    dense = [x for x in tensors if _is_dense(x)]
    layouts: list[tuple[int, ...]] = []
    for x in dense:
        if not any(_is_laid_out(x, strides) for strides in layouts):
            layouts.append(x.stride())
    if not layouts:
        return _contiguous_strides(tensors[0].shape)
    return max(layouts, key=lambda strides: sum(_is_laid_out(x, strides) for x in dense))


def laid_out(x: Tensor, strides: Sequence[int]) -> Tensor:
    """``x`` itself if its memory is in that layout, otherwise a copy that is."""
    return (
        x
        if _is_laid_out(x, strides)
        else torch.empty_strided(x.shape, tuple(strides), dtype=x.dtype, device=x.device).copy_(x)
    )


def common_image_format(*images: Tensor) -> torch.memory_format:
    """Contiguous if all ``images`` are; otherwise channels last, the format that kernels prefer."""
    return torch.contiguous_format if all(x.is_contiguous() for x in images) else torch.channels_last


def empty_images(like: Tensor, channels: int, memory_format: torch.memory_format) -> Tensor:
    """Uninitialised images as many, as large and of the same dtype as ``like``, with that number of channels."""
    N, _, H, W = like.shape
    return torch.empty((N, channels, H, W), dtype=like.dtype, device=like.device, memory_format=memory_format)


def _is_laid_out(x: Tensor, strides: Sequence[int]) -> bool:
    return all(mine == wanted or size == 1 for mine, wanted, size in zip(x.stride(), strides, x.shape, strict=True))


def _is_dense(x: Tensor) -> bool:
    if x.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


def _contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(size, 1))
    return tuple(reversed(strides))


def storage_id(tensor: Tensor) -> int:
    """A number that tensors share which share their memory; addresses do not tell, since all empty ones have 0."""
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]  (PyTorch has no public one)
