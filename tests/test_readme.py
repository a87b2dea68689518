"""The README names every method and its source, and stays short enough to be read."""

import re
from pathlib import Path

import pytest

from fastnas.methods.library import METHODS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_stands_in_the_table_beside_its_source(name):
    rows = [line for line in README.splitlines() if line.startswith("|") and f"`{name}`" in line.split("|")[1]]
    assert len(rows) == 1
    (source,) = re.findall(r"arXiv:[\d.]+|NeurIPS \d+", METHODS[name]().source)
    assert source in rows[0]


def test_it_is_read_to_its_end():
    assert len(re.findall(r"\S*\w\S*", README)) <= 900
