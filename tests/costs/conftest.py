import dataclasses

import pytest

from fastnas.costs.tables import NetworkSize
from fastnas.spaces.cell_space import DARTS, NASBENCH201
from fastnas.supernet.operations import DARTS_OPERATIONS


@pytest.fixture(scope="session")
def small_space():
    """Two nodes of two and three edges, of which two are kept: 9 and 27 choices in each of two cells."""
    primitives = ("skip_connect", "sep_conv_3x3", "dil_conv_5x5")
    return dataclasses.replace(
        DARTS, name="small", primitives=primitives, num_nodes=2, concat=(2, 3), operations=DARTS_OPERATIONS
    )


@pytest.fixture(scope="session")
def size_of():
    """A tiny network that the cells of a space go into."""

    def size(space):
        cells = space.depth or (2 if space is NASBENCH201 else 4)
        return NetworkSize(channels=4, cells=cells, resolution=9, batch_size=2)

    return size
