"""Links of the documentation lead somewhere. `pytest README.md docs` runs what it shows."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("kernels/*.md"), *ROOT.glob("fastnas/**/*.md")]
INCLUDED = {ROOT / "docs" / "explanations" / "kernels.md"}  # shows a page of another folder


def links_of(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]


@pytest.mark.parametrize("page", sorted(set(PAGES) - INCLUDED), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page):
    missing = [link for link in links_of(page) if not (page.parent / link).exists()]
    assert missing == []


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / "page.md").write_text("[a](there.md) and [b](https://example.org) and [c](#here)")
    assert links_of(tmp_path / "page.md") == ["there.md"]


def names_without_example(room):
    """Public names of a namespace that neither their docstring nor a page of the API shows in use."""
    module = import_module(f"fastnas.{room}" if room else "fastnas")
    pages = "".join(page.read_text() for page in (ROOT / "docs").rglob("*.md"))
    shown = "\n".join(re.findall(r"```python\n(.*?)```", pages, flags=re.DOTALL))
    for name in module.__all__:
        item = getattr(module, name)
        runs = callable(item) and getattr(item, "__module__", "typing").startswith("fastnas")
        used = re.search(rf"\b{room or 'fastnas'}\.{name}\b|import [^\n]*\b{name}\b", shown)
        if runs and ">>>" not in (item.__doc__ or "") and not used:
            yield name


@pytest.mark.parametrize("room", ["", "bilevel", "costs", "data", "mechanisms", "methods", "spaces", "tasks"])
def test_every_public_item_has_an_example(room):
    assert list(names_without_example(room)) == []
