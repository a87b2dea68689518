"""When searches stop and go back, on histories written by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fastnas.mechanisms.control import (
    EigenvalueRollBack,
    EigenvalueStop,
    FirstOf,
    RankStable,
    RollBack,
    SkipCount,
    Stop,
    all_decided,
    eigenvalue_rule_of_the_code,
    eigenvalue_rule_of_the_paper,
)
from fastnas.spaces.cell_space import DARTS, NASBENCH201

SEP = [("sep_conv_3x3", 0), ("sep_conv_3x3", 1)]


def genotype(normal_skips, reduction_skips=0):
    def cell(skips):
        genes = [gene for _ in range(4) for gene in SEP]
        for i in range(skips):
            genes[2 * i] = ("skip_connect", 0)
        return genes

    concat = [2, 3, 4, 5]
    normal, reduction = cell(normal_skips), cell(reduction_skips)
    return f"Genotype(normal={normal}, normal_concat={concat}, reduce={reduction}, reduce_concat={concat})"


def with_skips(*counts, moves=True):
    return [{"genotype": genotype(*count), "alpha_moves": moves} for count in counts]


def test_two_skips_in_the_normal_cell_stop_darts_plus():
    assert SkipCount()(DARTS, with_skips((0,), (1,))) is None
    assert SkipCount()(DARTS, with_skips((0,), (2,))).epoch == 1
    assert SkipCount(previous=True)(DARTS, with_skips((0,), (1,), (2,))).epoch == 1
    assert SkipCount()(DARTS, []) is None


def test_skips_of_the_reduction_cell_and_epochs_of_warm_up_do_not_count():
    assert SkipCount()(DARTS, with_skips((0, 4))) is None
    assert SkipCount()(DARTS, with_skips((4,), moves=False)) is None


def ranked(*leaders, moves=True):
    """Records in which the given column leads the convolutions of every edge."""
    records = []
    for leader in leaders:
        row = [0.0, 9.0, 9.0, 9.0, 0.1, 0.2, 0.3, 0.4]
        row[leader] = 1.0
        records.append({"alpha": {"normal": [row] * 14}, "alpha_moves": moves})
    return records


def test_a_ranking_must_stand_for_ten_comparisons():
    assert RankStable(10)(DARTS, ranked(5, *[4] * 10)) is None
    assert RankStable(10)(DARTS, ranked(5, *[4] * 11)).epoch == 11
    assert RankStable(10)(DARTS, ranked(*[4] * 10)) is None
    assert RankStable(10)(DARTS, [*ranked(*[4] * 10, moves=False), *ranked(4)]) is None


def test_pools_and_skips_may_change_places_and_so_may_the_order_below_the_leader():
    records = ranked(4, 4)
    records[1]["alpha"] = {"normal": [[*row[:1], 3.0, 2.0, 1.0, *row[4:]] for row in records[1]["alpha"]["normal"]]}
    assert RankStable(1)(DARTS, records) is not None
    records[1]["alpha"] = {"normal": [[*row[:5], 0.3, 0.2, 0.4] for row in records[1]["alpha"]["normal"]]}
    assert RankStable(1)(DARTS, records) is None
    assert RankStable(1, leader_only=True)(DARTS, records) is not None


def test_one_candidate_on_every_edge_ends_asap():
    assert all_decided(NASBENCH201, [{"alive": {"normal": [1, 1, 2]}}]) is None
    assert all_decided(NASBENCH201, [{"alive": {"normal": [1, 1, 1]}}]) == Stop(0, "every edge is decided")
    assert all_decided(NASBENCH201, []) is None


def fires(rule, eigenvalue, every):
    """The epoch in which the rule fires, and the one that it returns."""
    measured = []
    for epoch in range(0, 50, every):
        measured.append((epoch, eigenvalue(epoch)))
        target = rule(measured)
        if target is not None:
            return epoch, target
    return None


@pytest.mark.parametrize(
    ("eigenvalue", "expected"),
    [
        (lambda e: 1.05**e, (22, 10)),
        (lambda e: 1.04**e, (22, 10)),
        (lambda e: 1.03**e, None),
        (lambda e: 1.0, None),
        (lambda e: 1.0 if e < 20 else 2.0, (22, 10)),
    ],
)
def test_the_rule_of_the_published_code(eigenvalue, expected):
    assert fires(eigenvalue_rule_of_the_code(), eigenvalue, 2) == expected


def test_its_means_are_those_of_the_published_tracker():
    measured = [(e, 1.05**e) for e in range(0, 24, 2)]
    rule = eigenvalue_rule_of_the_code()
    assert rule._mean(measured) == pytest.approx(2.42960, abs=1e-5)
    assert rule._mean(measured[:-4]) == pytest.approx(1.64445, abs=1e-5)
    assert rule._mean(measured[:2]) is None
    step = [(e, 1.0 if e < 20 else 2.0) for e in range(0, 24, 2)]
    assert (rule._mean(step), rule._mean(step[:-4])) == (pytest.approx(1.4), 1.0)


def test_the_shift_of_a_rule_is_added_to_what_it_compares():
    grown = [(e, 0.002 if e < 20 else 0.0027) for e in range(0, 24, 2)]  # by 1.35, with the shift by 1.23
    rule = replace(eigenvalue_rule_of_the_code(), window=1, at_least=1)
    assert rule(grown) is None
    assert replace(rule, shift=0.0)(grown) == 10


def test_the_rule_of_the_paper_compares_means_five_epochs_apart():
    rule = eigenvalue_rule_of_the_paper()
    assert fires(rule, lambda e: 1.07**e, 1) == (9, 2)  # 1.07^5 = 1.403 > 1 / 0.75; the mean of 5 to 9 is around 7
    assert fires(rule, lambda e: 1.05**e, 1) is None  # 1.05^5 = 1.276
    assert fires(rule, lambda e: -1.0, 1) is None


TRACES = json.loads((Path(__file__).parent / "eigenvalue_traces.json").read_text())
"""``[epoch, eigenvalue]`` of the 67 searches of 50 epochs that Zela et al. published (Apache-2.0), computed from their
Hessians and rounded to four digits."""


def stops(trace, epochs=50):
    """The epoch in which the published rule stops the search of ``trace``, and the one that it returns."""
    control = EigenvalueStop(replace(eigenvalue_rule_of_the_code(), shift=0.0))  # the traces hold the weight decay
    measured, records = dict(trace), []
    for epoch in range(epochs):
        records.append({"epochs": epochs} | ({"eigenvalue": measured[epoch]} if epoch in measured else {}))
        verdict = control(DARTS, records)
        if verdict is not None:
            return epoch, verdict.epoch
    return None


def test_of_the_published_traces_as_many_stop_as_with_the_published_tracker():
    found = [stops(trace) for trace in TRACES.values()]
    stopped = [pair for pair in found if pair is not None]
    assert (len(found), len(stopped)) == (67, 40)
    assert stopped[:3] == [(22, 10), (22, 10), (30, 18)]


def test_the_published_rule_does_not_ask_in_the_last_epoch():
    trace = TRACES["s1/cifar10/0.0_0.0243-2516847/2"]
    assert stops(trace) is None
    assert stops(trace, epochs=51) == (49, 37)  # as the rule itself would


def measured_records(values, decay=3e-4, every=2):
    return [
        {"eigenvalue": values(e), "weight_decay": decay} if e % every == 0 else {"weight_decay": decay}
        for e in range(23)
    ]


def test_the_search_stops_with_the_architecture_of_before():
    stop = EigenvalueStop(eigenvalue_rule_of_the_code())
    assert stop(DARTS, measured_records(lambda e: 1.05**e)) == Stop(10, "the dominant eigenvalue grew")
    assert stop(DARTS, measured_records(lambda e: 1.05**e)[:-1]) is None  # not measured in this epoch
    assert stop(DARTS, []) is None


def test_or_goes_back_with_ten_times_the_weight_decay_until_that_is_large():
    back = EigenvalueRollBack()
    assert back.keeps == 12
    verdict = back(DARTS, measured_records(lambda e: 1.05**e))
    assert isinstance(verdict, RollBack)
    assert (verdict.epoch, verdict.weight_decay) == (10, pytest.approx(3e-3))
    assert back(DARTS, measured_records(lambda e: 1.05**e, decay=3e-3)).weight_decay == 0.03
    assert back(DARTS, measured_records(lambda e: 1.05**e, decay=0.03)) is None


def test_the_first_of_several_controls_decides():
    records = with_skips((3,))
    assert FirstOf((lambda space, records: None, SkipCount(limit=3)))(DARTS, records).epoch == 0
    assert FirstOf((lambda space, records: None,))(DARTS, records) is None
