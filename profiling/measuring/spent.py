"""Where the time of a call goes, by PyTorch's profiler."""

from collections import Counter
from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

KINDS = {
    "fastnas::mixed_cell_backward": "cells, backward",
    "fastnas::mixed_cell": "cells, forward",
    "aten::convolution_backward": "convolutions outside cells",
    "aten::mkldnn_convolution": "convolutions outside cells",
    "aten::native_batch_norm": "normalisations outside cells",
    "aten::native_batch_norm_backward": "normalisations outside cells",
}


def shares(run: Callable[[], object]) -> dict[str, float]:
    """The share of each kind of operation, largest first.

    Cells are those in compiled code: in PyTorch they are convolutions, normalisations and others like all else.
    """
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        run()
    spent: Counter[str] = Counter()
    for event in profiled.key_averages():
        spent[KINDS.get(event.key, "other operations")] += event.self_cpu_time_total
    total = sum(spent.values())
    return {kind: value / total for kind, value in spent.most_common()}
