"""Methods that have one loss for alpha and the weights."""

from dataclasses import replace

from fastnas.mechanisms.update_schedule import UpdateSchedule
from fastnas.methods.library import darts
from fastnas.methods.method import Method
from fastnas.methods.registry import register_method


@register_method
def single_darts() -> Method:
    """DARTS that moves alpha and the weights at once, by the gradients of one loss on one batch of all training images
    (Hou et al., 2021, arXiv:2108.08128). A step costs one pass instead of two. Alpha's rate is 0.03, chosen in
    searches of some 2,000 steps (profiling/quality.py)."""
    source = "Hou et al., 2021, arXiv:2108.08128"
    joint = UpdateSchedule(joint=True)
    return replace(darts(), name="single_darts", source=source, alpha_lr=0.03, update_schedule=joint)
