import io
import re

import pytest
from rich.console import Console

from fastnas.experiment.progress import Display
from fastnas.progress import format_epoch, format_time_left
from fastnas.spaces.formats import describe_genotype, read_genotype


def test_a_genotype_is_a_line_an_edge():
    lines = describe_genotype(read_genotype("PDARTS")).splitlines()
    assert max(map(len, lines)) <= 80
    assert "  0     c_k-2     skip_connect" in lines
    assert "        2         dil_conv_5x5" in lines
    assert sum("conv" in line or "pool" in line or "skip" in line for line in lines) == 16


def test_outside_of_a_terminal_an_epoch_is_exactly_one_plain_line(records):
    output = io.StringIO()
    with Display("search [x]", Console(file=output, width=40)) as display:
        for epoch in range(3):
            for step in range(5):
                display.step(5 * epoch + step + 1, 15)
            display.epoch(records.search_record(epoch))
    lines = output.getvalue().splitlines()
    assert [line[:21] for line in lines] == [f"search [x]  epoch {epoch}/4" for epoch in (1, 2, 3)]
    for part in ("weight loss 2.000", "acc % 0.0", "alpha loss 2.100", "acc % 50.0", "entropy 2.000 1.500", "waits"):
        assert part in lines[0]
    assert "moves" in lines[1]
    assert "\x1b" not in output.getvalue()


@pytest.mark.parametrize("kind", ["search", "retrain"])
def test_in_a_terminal_lines_stand_below_their_headings_above_the_bar(records, kind):
    output = io.StringIO()
    console = Console(file=output, width=80, force_terminal=True, no_color=True, _environ={"TERM": "xterm"})
    made = [records.search_record(9, 10), records.search_record(1)]
    made = made if kind == "search" else [records.retrain_record(0, False), records.retrain_record(1, True)]
    with Display("a title", console) as display:
        for step, record in enumerate(made):
            display.step(100 + step, 200)
            display.epoch(record)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.getvalue()).replace("\r", "\n").splitlines()
    heading = [line for line in plain if "epoch" in line and "loss" in line]
    rows = [line for line in plain if re.match(r"\s*\d+/\d+ ", line)]
    assert len(heading) == 1
    assert len(rows) == 2
    assert {len(line.rstrip()) for line in [*heading, *rows]} == {len(heading[0].rstrip())}
    assert len(heading[0]) <= 80
    assert any("/200 steps" in line for line in plain)


def test_the_numbers_of_a_line_follow_the_kind_of_the_record(records):
    search = format_epoch(records.search_record(0))
    assert list(search.values()) == ["1/4", "2.000", "0.0", "2.100", "50.0", "2.000 1.500", "waits", "1.2"]
    assert list(format_epoch(records.retrain_record(0, True)).values()) == [
        "1/2",
        "1.000",
        "50.0",
        "0.900",
        "60.0",
        "2.0",
    ]
    assert list(format_epoch(records.retrain_record(0, False)).values()) == ["1/2", "1.000", "50.0", "–", "–", "2.0"]


def test_the_time_left_counts_the_steps_of_this_session_only():
    assert format_time_left(10, first=900, done=910, total=1000) == "1:30 left"
    assert format_time_left(36, first=0, done=1, total=101) == "1:00:00 left"
    assert format_time_left(0, first=900, done=900, total=1000) == ""
