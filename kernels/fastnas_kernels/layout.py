"""Dense memory layouts: when several tensors of one shape may be read as flat vectors side by side."""

from collections.abc import Sequence

from torch import Tensor


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
    return x if _is_laid_out(x, strides) else x.new_empty_strided(x.shape, strides).copy_(x)


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
