"""A setting that is not a number is refused where it is made: NaN is neither below nor above any limit."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from fastnas.bilevel import Implicit, ImportanceWeighted, UnrolledByDifferences
from fastnas.data import DataConfig
from fastnas.mechanisms.alpha_optimizer import ApgNag
from fastnas.mechanisms.choice import Perturbation
from fastnas.mechanisms.control import EigenvalueRollBack, EigenvalueRule
from fastnas.mechanisms.matching import Alignment, GradientMatching
from fastnas.mechanisms.pruning import BelowThreshold
from fastnas.methods import darts
from fastnas.methods.variants import Techniques

NAN = math.nan
MAKES = {
    "radius of differences": partial(UnrolledByDifferences, NAN),
    "damping": partial(Implicit, damping=NAN),
    "temperature of weights": partial(ImportanceWeighted, temperature=NAN),
    "growth": partial(EigenvalueRule, growth=NAN, window=5, lag=4, lookback=5),
    "factor": partial(EigenvalueRollBack, factor=NAN),
    "rate of a proximal step": partial(ApgNag, [torch.zeros(2)], NAN),
    "epochs of tuning": partial(Perturbation, tune_epochs=NAN),
    "radius of alignment": partial(Alignment, lambda at: 1.0, radius=NAN),
    "threshold of matching": partial(GradientMatching, threshold=NAN),
    "share of pruning": partial(BelowThreshold, NAN),
    "weight decay of a method": partial(replace, darts(), weight_decay_factor=NAN),
    "strength of a technique": partial(Techniques, l1=NAN),
    "first temperature": partial(Techniques, temperature=(NAN, 1.0)),
    "last temperature": partial(Techniques, temperature=(1.0, NAN)),
    "change of brightness": partial(DataConfig, colour=(NAN, 0.4, 0.4, 0.2)),
    "change of contrast": partial(DataConfig, colour=(0.4, NAN, 0.4, 0.2)),
    "a change without end": partial(DataConfig, colour=(0.4, math.inf, 0.4, 0.2)),
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES.keys())
def test_what_is_no_number_is_refused(make):
    with pytest.raises(ValueError, match=r"must .*, got .*(nan|inf)"):
        make()
