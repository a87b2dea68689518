"""Every promise of docs/guarantees.md, and every answer of docs/questions.md, names a test that exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("guarantees", "questions")}
NAMED = {name: re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text) for name, text in PAGES.items()}


@pytest.mark.parametrize(("page", "least"), [("guarantees", 16), ("questions", 25)])
def test_every_promise_and_every_answer_has_a_test(page, least):
    rows = [line for line in PAGES[page].splitlines() if line.startswith("| ")]
    heads = ("| promise", "| question", "| ---")
    assert len(NAMED[page]) == len([row for row in rows if not row.startswith(heads)]) >= least


@pytest.mark.parametrize(("file", "name"), [pair for pairs in NAMED.values() for pair in pairs])
def test_the_test_that_holds_it_exists(file, name):
    assert f"\ndef {name}(" in (ROOT / file).read_text()
