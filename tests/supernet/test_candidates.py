import dataclasses

import pytest
import torch

from fastnas.spaces.cell_space import DARTS
from fastnas.spaces.registry import SPACES
from fastnas.supernet.candidates import operations_of
from fastnas.supernet.layout import has_reductions
from fastnas.supernet.operations import DARTS_OPERATIONS

CELL_SPACES = [space for space in SPACES.values() if space.stages is None and space.dag is None]


@pytest.mark.parametrize("space", CELL_SPACES, ids=lambda space: space.name)
@pytest.mark.parametrize("stride", [1, 2])
def test_every_primitive_of_every_space_keeps_the_channels_and_rounds_strided_maps_up(space, stride):
    for primitive in space.primitives:
        for searching in (True, False):
            y = operations_of(space)[primitive](4, stride, searching)(torch.randn(2, 4, 5, 5))
            assert y.shape == (2, 4, *[5 if stride == 1 else 3] * 2)


def test_a_space_of_ones_own_needs_an_operation_for_every_primitive():
    own = dataclasses.replace(DARTS, name="own")
    with pytest.raises(
        ValueError, match=r"space 'own': a space of your own must have operations, got none. Give it one"
    ):
        operations_of(own)
    own = dataclasses.replace(own, primitives=("none", "conv", "skip_connect"), operations=DARTS_OPERATIONS)
    with pytest.raises(ValueError, match="every primitive must have an operation, got none for conv"):
        operations_of(own)


def test_cells_that_fit_no_network_are_refused():
    assert has_reductions(DARTS)
    odd = dataclasses.replace(DARTS, name="odd", num_inputs=1, kept_edges=1, concat=(1, 2))
    with pytest.raises(
        ValueError, match=r"space 'odd': cells must have 2 inputs .*, got 1 inputs, normal and reduction, 2"
    ):
        has_reductions(odd)
