"""A small cell with sampled rows, as it is and accelerated."""

import sampled
from sampled import Sampled


def test_every_size_is_timed_as_a_whole_cell(capsys):
    sampled.main(Sampled(channels=4, runs=1))
    out = capsys.readouterr().out
    assert "replaced 1 cells" in out
    assert "a candidate whose coefficient is zero does not run" in out
    assert sum(line.count("|") == 5 for line in out.splitlines()) == 5
