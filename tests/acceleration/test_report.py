import dataclasses

import pytest

from fastnas.acceleration.report import AccelerationReport, Left, Replaced


def test_reads_as_a_few_lines_however_many_modules_there_are():
    replaced = [Replaced("cells.0", "cell", "4 nodes"), *(Replaced(f"cells.1.{i}", "edge", "7 ops") for i in range(6))]
    report = AccelerationReport(tuple(replaced), (Left("cells.1", "a bias"), Left("", "a hook")))
    assert str(report).splitlines() == [
        "replaced 1 cells and 6 single mixed operations, left 2",
        "  cell cells.0: 4 nodes",
        "  edge cells.1.0, cells.1.1, cells.1.2, cells.1.3 and 2 more: 7 ops",
        "  left cells.1: a bias",
        "  left the network itself: a hook",
        "  copies are accelerated, too; a network that an architect builds anew is not: give it to fastnas.accelerate "
        "where it is built",
    ]


def test_says_so_if_there_is_nothing_to_replace():
    assert "nothing in this network has the shape of a mixed operation" in str(AccelerationReport((), ()))


def test_is_a_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AccelerationReport((), ()).left = ()


def test_names_what_another_memory_layout_changes():
    report = AccelerationReport((Replaced("cells.0", "cell", "4 nodes", changes_layout=True),), ())
    assert "dropout of whole maps behind it draws another mask" in str(report)
