import pytest

from fastnas.mechanisms.pruning import BelowThreshold, Stage, at_zero, keep_best
from fastnas.methods.library import p_darts


def all_alive(edges, candidates):
    return ((True,) * candidates,) * edges


def test_asap_removes_what_fell_below_two_fifths_of_an_even_share():
    row = [0.049, 0.051, 0.9 / 6, 0.15, 0.15, 0.15, 0.15, 0.15]
    kept = BelowThreshold(0.4)([row], all_alive(1, 8))[0]  # the threshold is 0.05
    assert kept == (False, True, True, True, True, True, True, True)


def test_the_threshold_counts_the_candidates_of_the_beginning_and_spares_the_last():
    alive = ((True, False, True, False, False, False, False, False),)
    assert BelowThreshold(0.4)([[0.951, 0, 0.049, 0, 0, 0, 0, 0]], alive)[0] == (True, *[False] * 7)
    only = ((False, True),)
    assert BelowThreshold(0.4)([[0.0, 0.0]], only) == only
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\), got 1"):
        BelowThreshold(1)


def test_every_edge_is_judged_by_the_same_threshold():
    rows = [[0.06, 0.94], [0.3, 0.7], [0.15, 0.85]]  # 0.2 for two candidates
    assert BelowThreshold(0.4)(rows, all_alive(3, 2)) == ((False, True), (True, True), (False, True))


def test_stages_keep_the_best_living_candidates_of_each_edge():
    alive = all_alive(2, 8)
    values = [[0.1, 0.2, 0.05, 0.3, 0.15, 0.05, 0.1, 0.05], [0.125] * 8]
    counts = []
    for number in (5, 3, 1):
        alive = keep_best(values, alive, number)
        counts.append([sum(row) for row in alive])
    assert counts == [[5, 5], [3, 3], [1, 1]]
    assert alive[0].index(True) == 3
    assert alive[1].index(True) == 0  # ties go to the lower candidate
    assert keep_best([[0.9, 0.1]], ((False, True),), 2) == ((False, True),)


def test_exact_zeros_are_removed_to_the_last():
    assert at_zero([[0.0, 1e-30], [0.0, 0.0]], all_alive(2, 2)) == ((False, True), (False, False))
    assert at_zero([[1.0, 1.0]], ((False, True),)) == ((False, True),)


def test_five_cells_and_more_grow_as_published_and_fewer_in_proportion():
    grown = {cells: [stage.deepen(cells) for stage in p_darts().stages] for cells in (1, 3, 5, 8)}
    assert grown == {1: [1, 2, 3], 3: [3, 7, 10], 5: [5, 11, 17], 8: [8, 14, 20]}
    assert Stage(2).deepen(1) == 3


def test_a_stage_without_candidates_is_refused():
    with pytest.raises(ValueError, match="Stage: candidates must be at least 1, got 0"):
        Stage(candidates=0)
