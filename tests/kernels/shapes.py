"""Lets Triton's interpreter work out what a shape is once, and not for every single number that a kernel computes."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import triton.language as tl

from fastnas_audit.interpreter import replaced


@contextmanager
def known_shapes() -> Iterator[None]:
    """Types and tensors share the descriptions of their shapes, which nothing changes; a third of the time is theirs.

    What a shape has to be is checked by Triton itself when it is seen for the first time, and every time it is refused.
    """
    block_type, tensor = tl.core.block_type, tl.core.tensor
    new_type, new_tensor = block_type.__init__, tensor.__init__

    @cache
    def of_type(sizes):
        made = block_type.__new__(block_type)
        new_type(made, tl.int32, list(sizes))
        return made.shape, made.numel

    @cache
    def name(element_name, sizes):
        return f"<{of_type(sizes)[0]}, {element_name}>"

    @cache
    def of_tensor(sizes):
        made = tensor.__new__(tensor)
        new_tensor(made, None, block_type(tl.int32, list(sizes)) if sizes else tl.int32)
        return made.shape, made.numel

    def type_init(self, element_ty, shape):
        sizes = tuple([s.value if isinstance(s, tl.constexpr) else s for s in shape])
        self.element_ty = element_ty
        self.shape, self.numel = of_type(sizes)
        self.name = name(str(element_ty), sizes)

    def tensor_init(self, handle, type):
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = of_tensor(tuple(type.shape.values) if type.is_block() else ())

    with replaced(block_type, __init__=type_init), replaced(tensor, __init__=tensor_init):
        yield
