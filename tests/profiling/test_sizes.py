"""The comparison of sizes, with clocks that are told what to show."""

from types import SimpleNamespace
from typing import Any

import pytest
import sizes
import torch
from sizes import AUTOMATIC, DEFINITION, PUBLISHED, Row, Size, Sizes

from fastnas_kernels.mixed_op.cell import mixed_cell
from measuring.cells import Cell, arguments_of

SMALL = Size(4, 1, 2, 3, 1)


@pytest.fixture
def one_size(monkeypatch):
    monkeypatch.setattr(sizes, "SIZES", (SMALL, SMALL._replace(stride=2)))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def row(automatic, definition, published, compiled=True, kind="pools"):
    seconds = {AUTOMATIC: automatic, DEFINITION: definition, PUBLISHED: published, f"{PUBLISHED}, channels_last": 9.0}
    return Row(kind, SMALL, "alpha step", True, compiled, seconds)


@pytest.mark.parametrize("kind", sizes.KINDS)
def test_every_kind_of_cell_can_be_evaluated_at_both_strides(kind):
    for stride in (1, 2):
        plan = sizes.plan_at(kind, SMALL._replace(stride=stride))
        given = arguments_of(Cell(kind, plan, 2, 3), torch.float32, sizes.CPU)
        nodes, _ = mixed_cell(given.states, given.weights, given.mix, None, plan)
        side = 3 if stride == 1 else 2
        assert nodes.shape == (2, 4 * (4 if len(plan.edges) > 1 else 1), side, side)


def test_a_contender_that_differs_is_not_timed(monkeypatch, one_size):
    wrong = sizes.CONTENDERS[PUBLISHED]._replace(evaluate=lambda a, plan: 1.0001 * sizes.edge_by_edge(a, plan))
    monkeypatch.setattr(sizes, "CONTENDERS", {**sizes.CONTENDERS, PUBLISHED: wrong})
    monkeypatch.setattr(sizes, "least", lambda *_: pytest.fail("nothing is to be timed"))
    with pytest.raises(RuntimeError, match=r"errors of one edge, .*, must be at most 1e-09"):
        sizes.main(Sizes(kinds=("one edge",), seconds=0))


def test_the_choice_is_compared_with_the_fastest_of_the_others():
    assert row(2.0, 3.0, 5.0).faster(DEFINITION, PUBLISHED) == 1.5
    assert row(2.0, 6.0, 5.0).faster(DEFINITION, PUBLISHED) == 2.5
    assert row(2.0, 6.0, 10.0).faster(PUBLISHED) == 4.5


def test_what_is_slower_is_marked_and_so_is_what_pytorch_computes():
    rows = [row(1.0, 0.94, 2.0), row(1.0, 2.0, 0.96, compiled=False, kind="identities")]
    every, summary = sizes.tables(rows, ("pools", "identities"))
    assert every.rows[0][-2:] == ["**0.94**", "0.96 (p)"]
    assert summary.rows[0] == ["pools", "0.94", "0.94", "2.00", "2.00", "1000.00"]


@pytest.mark.parametrize(
    ("kind", "definition", "published", "code"),
    [("pools", 1.0, 1.0, 0), ("pools", 1.0, 0.8, 1), ("pools", 0.8, 1.0, 1), ("one pool", 1.0, 0.8, 0),
     ("one pool", 0.8, 1.0, 1)],
)  # fmt: skip
def test_the_exit_code_says_whether_something_is_slower(
    kind, definition, published, code, monkeypatch, one_size, capsys
):
    times = {AUTOMATIC: 1.0, DEFINITION: definition, PUBLISHED: published}
    monkeypatch.setattr(sizes, "least", lambda *_: times)
    assert sizes.main(Sizes(kinds=(kind,))) == code
    printed = capsys.readouterr().out
    assert "| 4, 1 | 2 | 3×3 | 2 | weight step | " in printed
    assert (f"slower than 0.9: {kind}, " in printed) == bool(code)


def test_times_are_the_least_of_three_runs_after_one_to_warm_up():
    clock = iter([0.1, 0.2, 5.0, 6.0, 3.0, 4.0, 7.0, 8.0])
    device: Any = SimpleNamespace(seconds=lambda run: next(clock))
    assert sizes.least(device, {"a": lambda: None, "b": lambda: None}, 0.0) == {"a": 3.0, "b": 4.0}


def test_a_kind_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"kinds must be among whole, three an edge, .*, got half"):
        sizes.main(Sizes(kinds=("half",)))
