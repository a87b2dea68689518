import dataclasses

import pytest
import torch

from fastnas.spaces.cell_space import DARTS, SHARPDARTS, CellSpace
from fastnas.spaces.registry import SPACES
from fastnas.supernet.candidates import find_operations
from fastnas.supernet.operations import DARTS_OPERATIONS
from fastnas.supernet.supernets import build_supernet

CELL_SPACES = [space for space in SPACES.values() if isinstance(space, CellSpace)]


@pytest.mark.parametrize("space", CELL_SPACES, ids=lambda space: space.name)
@pytest.mark.parametrize("stride", [1, 2])
def test_every_primitive_of_every_space_keeps_the_channels_and_rounds_strided_maps_up(space, stride):
    for primitive in space.primitives:
        for searching in (True, False):
            y = find_operations(space)[primitive](4, stride, searching)(torch.randn(2, 4, 5, 5))
            assert y.shape == (2, 4, *[5 if stride == 1 else 3] * 2)


def test_a_space_of_known_primitives_needs_no_operations():
    for known in (DARTS, SHARPDARTS):
        own = dataclasses.replace(known, name="own", primitives=("none", "sep_conv_3x3", "skip_connect", "noise"))
        assert find_operations(own)["sep_conv_3x3"] is find_operations(known)["sep_conv_3x3"]
        assert build_supernet(own, 2, 4, 3, 1, 1, False).cells[0].names == ["sep_conv_3x3", "skip_connect", "noise"]


def test_a_space_of_ones_own_needs_an_operation_for_every_other_primitive():
    own = dataclasses.replace(DARTS, name="own", primitives=("none", "conv", "skip_connect"))
    for operations in ("darts", DARTS_OPERATIONS, {}):
        with pytest.raises(ValueError, match=r"every primitive must have an operation, got none for conv. Give it one"):
            find_operations(dataclasses.replace(own, operations=operations))
    mine = DARTS_OPERATIONS["skip_connect"]
    assert find_operations(dataclasses.replace(own, operations={"conv": mine}))["conv"] is mine
    with pytest.raises(ValueError, match=r"operations must be functions, or one of darts, .*, got 'resnet'"):
        find_operations(dataclasses.replace(own, operations="resnet"))


def test_cells_that_fit_no_network_are_refused():
    odd = dataclasses.replace(DARTS, name="odd", num_inputs=1, kept_edges=1, concat=(1, 2))
    with pytest.raises(
        ValueError, match=r"space 'odd': cells must have 2 inputs .*, got 1 inputs, normal and reduction, 2"
    ):
        build_supernet(odd, 2, 4, 3, 1, 1, False)
