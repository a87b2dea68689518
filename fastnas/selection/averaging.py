"""The architecture of coefficients that are averaged over the end of a search.

Where two candidates are close, the argmax of the last epoch decides by the noise of a few steps. The mean of
iterates has less of it (Polyak and Juditsky, 1992, "Acceleration of stochastic approximation by averaging").
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastnas.methods.method import Method
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.space import Space


def derive_from_average(space: Space, method: Method, history: Sequence[Mapping[str, Any]]) -> Genotype:
    """Derive from the mean coefficients of the last half of the epochs, as far as they are of the last stage. What is
    zero in the last epoch, as a candidate that was pruned, stays zero.

    Args:
        space: What was searched.
        method: Derives as it does from the coefficients of one epoch.
        history: The records of the search, one an epoch.

    Example:
        >>> from fastnas.methods import darts
        >>> from fastnas.spaces import NASBENCH201
        >>> likely, unlikely = [0.1, 0.1, 0.1, 0.6, 0.1], [0.1, 0.1, 0.1, 0.3, 0.4]
        >>> epochs = [{"mix": {"normal": [row] * 6}, "edge_mix": {}, "stage": 0} for row in (likely, likely, unlikely)]
        >>> print(derive_from_average(NASBENCH201, darts(), epochs))
        |nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|
    """
    last = [record for record in history[len(history) // 2 :] if record["stage"] == history[-1]["stage"]]
    return method.derivation(space, _mean(last, "mix"), _mean(last, "edge_mix"))


def _mean(records: Sequence[Mapping[str, Any]], field: str) -> dict[str, Any]:
    names = records[-1][field]
    return {
        name: np.where(np.equal(last, 0), 0, np.mean([record[field][name] for record in records], axis=0)).tolist()
        for name, last in names.items()
    }
