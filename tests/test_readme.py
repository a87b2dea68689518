"""What the README says of the methods is what they say of themselves."""

from pathlib import Path

from fastnas.methods.library import METHODS
from fastnas.methods.registry import summarize

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_table_of_methods_is_that_of_the_recipes():
    rows = [f"| `{name}` | {summarize(recipe)} | {recipe().source} |" for name, recipe in METHODS.items()]
    head = "| name | what it does | source |\n| --- | --- | --- |\n"
    assert head + "\n".join(rows) + "\n" in README
