"""Which bodies the primitives of a space have."""

from collections.abc import Mapping

from fastnas.spaces.cell_space import DARTS, GDAS_FRC, NASBENCH201, S1, S2, S3, S4, SHARPDARTS, SHARPERDARTS, CellSpace
from fastnas.supernet.noise_operation import Noise
from fastnas.supernet.operations import DARTS_OPERATIONS, NASBENCH201_OPERATIONS, BuildOperation, Zero
from fastnas.supernet.sharp import SHARP_OPERATIONS
from fastnas_kernels.check import require

_NOISE: Mapping[str, BuildOperation] = {"noise": lambda channels, stride, searching: Noise(stride)}
_NONE: Mapping[str, BuildOperation] = {"none": lambda channels, stride, searching: Zero(stride)}

OPERATIONS: Mapping[str, Mapping[str, BuildOperation]] = {
    **{space.name: DARTS_OPERATIONS for space in (DARTS, GDAS_FRC, S1, S2, S3)},
    S4.name: {**DARTS_OPERATIONS, **_NOISE},
    SHARPDARTS.name: SHARP_OPERATIONS,
    SHARPERDARTS.name: SHARP_OPERATIONS,
    NASBENCH201.name: NASBENCH201_OPERATIONS,
}
"""By the name of the space."""


def operations_of(space: CellSpace) -> Mapping[str, BuildOperation]:
    """How the primitives of ``space`` are built: its own operations, or those of the library's space of that name.

    Raises:
        ValueError: If there is no way to build one of them. ``none`` needs none: its edge carries nothing.
    """
    own = space.operations if space.operations is not None else OPERATIONS.get(space.name)
    where = f"space {space.name!r}"
    remedy = "Give it one: CellSpace(operations={primitive: function of (channels, stride, affine)})."
    require(own is not None, where, "a space of your own must have operations", "none", remedy)
    assert own is not None
    missing = [primitive for primitive in space.primitives if primitive not in own and primitive != "none"]
    require(not missing, where, "every primitive must have an operation", f"none for {', '.join(missing)}", remedy)
    return {**_NONE, **own}
