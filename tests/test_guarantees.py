"""Every promise of docs/guarantees.md names a test that exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "guarantees.md").read_text())


def test_every_promise_has_a_test():
    rows = [line for line in (ROOT / "docs" / "guarantees.md").read_text().splitlines() if line.startswith("| ")]
    assert len(NAMED) == len([row for row in rows if not row.startswith(("| promise", "| ---"))]) > 15


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_the_test_that_holds_a_promise_exists(file, name):
    assert f"\ndef {name}(" in (ROOT / file).read_text()
