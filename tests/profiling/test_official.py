"""The comparison with official code: what it takes for equal."""

import math

import official
import pytest


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, 2e-7])
def test_a_difference_is_seen_in_every_place(at, wrong):
    differences = [1e-16, 1e-15, 0.0]
    official.require_agreement(differences, 1e-7)
    differences[at] = wrong
    with pytest.raises(ValueError, match="they must agree to 1e-07"):
        official.require_agreement(differences, 1e-7)
