"""Which methods have a meaning in which spaces."""

from fastnas.mechanisms.control import SKIPS
from fastnas.methods.method import Method
from fastnas.spaces.cell_space import CellSpace, depth_of
from fastnas_kernels.check import complaint


def require_fit(method: Method, space: CellSpace) -> None:
    """Raise where an axis of ``method`` has no meaning in ``space``, naming both and why.

    Raises:
        ValueError: For partial channels and edge weights in a chain, partial channels in a full graph, stages of
            growing depth where every block has choices of its own, and for stopping by the number of skip connections
            in a space that has none.
    """
    chain, skips = space.stages is not None, "skip_connect" in space.primitives
    graph, own_choices = space.dag is not None, depth_of(space) is not None
    refusals = [
        (
            chain and (method.partial_channels > 1 or method.edge_normalisation),
            "partial_channels or edge_normalisation",
            "Its blocks change their channels, so that none can pass by, and a node has one edge: nothing to weigh.",
        ),
        (
            graph and method.partial_channels > 1,
            f"partial_channels={method.partial_channels}",
            "Its operations are nodes, around which no channels could pass.",
        ),
        (
            own_choices and any(stage.added_cells for stage in method.stages),
            "stages with added_cells",
            "Every block has a row of alpha, which a deeper network would not have.",
        ),
        (not skips and SKIPS in method.control_reads, f"control={method.control}", _NO_SKIPS),
    ]
    for meaningless, choice, why in refusals:
        if meaningless:
            rule = f"{choice} must not stand beside the space {space.name}"
            raise ValueError(complaint(f"method {method.name}", rule, "both", why))


_NO_SKIPS = "It counts skip connections, of which the space has none."
