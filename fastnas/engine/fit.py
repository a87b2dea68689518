"""Which methods have a meaning in which spaces, and for which tasks."""

from dataclasses import fields, replace

from torch import nn

from fastnas.errors import invalid
from fastnas.mechanisms.alpha_optimizer import find_unread
from fastnas.mechanisms.control import SKIPS
from fastnas.mechanisms.schedules import Constant
from fastnas.methods.method import Method
from fastnas.spaces.space import Space
from fastnas.tasks import Task, require_unbalanced
from fastnas.training.config import SearchConfig


def require_fit(method: Method, space: Space) -> None:
    """Raise where an axis of ``method`` has no meaning in ``space``, naming both and why.

    Raises:
        ValueError: For partial channels and edge weights in a chain, and for partial channels in a full graph. Also for
            stages of growing depth where every block has choices of its own, and for a stop by the number of skip
            connections in a space that has none.
    """
    no_growth = "" if space.depth is None else "Every block has a row of alpha, which a deeper network would not have."
    no_skips = "" if "skip_connect" in space.primitives else "It counts skip connections, of which the space has none."
    partial, grows = method.partial_channels, any(stage.added_cells for stage in method.stages)
    refusals = [
        (method.alignment is not None, "alignment", space.no_alignment),
        (partial > 1, f"partial_channels={partial}", space.no_partial_channels),
        (method.edge_normalisation, "edge_normalisation", space.no_edge_weights),
        (grows, "a stage with added_cells", no_growth),
        (method.auxiliary_skip != Constant(0.0), "auxiliary_skip", no_skips.replace("counts", "adds to")),
        (SKIPS in method.control_reads, f"control={method.control}", no_skips),
    ]
    for asked, choice, why in refusals:
        if asked and why:
            raise ValueError(f"method {method.name}: {choice} does not work in the space {space.name}. {why}")


def require_task(task: Task, method: Method, config: SearchConfig) -> None:
    """Raise where the method or the settings ask for what the task does not have."""
    require_unbalanced(task, config.is_balanced, config.class_weights == "balanced")
    if method.reward is not None and not (task.score_kind.is_share and task.score_kind.higher_is_better):
        rule = f"{method.name}, whose reward is made of an accuracy and a cost, needs a score that is a share"
        raise invalid("search", rule, f"the {task.score_kind.label} of {task.name}", "Use proxyless_nas.")


def require_read(method: Method, config: SearchConfig) -> None:
    """Raise for settings of alpha that the method does not read.

    Raises:
        ValueError: For any of them where alpha never moves, and for Adam's where another optimiser moves it.
    """
    for name in _list_unread(method):
        value = getattr(config, name)
        if value != getattr(SearchConfig, name):
            raise invalid("search", f"{name} must not be set for {method.name}, which does not read it", value)


def drop_unread(method: Method, config: SearchConfig) -> SearchConfig:
    """``config`` without the settings of alpha that the method does not read: those of a recipe for another method."""
    return replace(config, **{name: getattr(SearchConfig, name) for name in _list_unread(method)})


def _list_unread(method: Method) -> list[str]:
    if not method.update_schedule.alpha_moves:
        return [field.name for field in fields(SearchConfig) if field.name.startswith("alpha_")]
    names = {"betas": ("alpha_beta1", "alpha_beta2"), "weight_decay": ("alpha_weight_decay",)}
    return [name for kind in find_unread(method.alpha_optimizer) for name in names[kind]]


def require_own(supernet: nn.Module, method: Method, config: SearchConfig) -> None:
    """Raise where a supernet of one's own cannot be searched.

    Raises:
        ValueError: Without a space; with what builds supernets anew, in every stage or to recompute; and without
            ``places`` where cells are aligned.
    """
    space = getattr(supernet, "space", None)
    if not isinstance(space, Space):
        got, remedy = type(supernet).__name__, "Give it an attribute `space`, a Space."
        raise invalid("search", "supernet must have a space", got, remedy)
    if len(method.stages) != 1:
        rule = f"a supernet of your own needs a method of one stage: {method.name} builds one for each"
        raise invalid("search", rule, f"{len(method.stages)} stages", "Search the space instead.")
    if config.recompute != ("none",):
        got, remedy = ", ".join(config.recompute), "Set it where the supernet is built."
        raise invalid("search", "recompute must be none with a supernet of your own", got, remedy)
    require_fit(method, space)
    if method.alignment is not None and not hasattr(supernet, "places"):
        rule = f"supernet must have places(cell_type), the names of the cells that {method.name} aligns"
        raise invalid("search", rule, type(supernet).__name__, "Search the space instead.")
