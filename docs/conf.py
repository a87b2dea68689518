"""The documentation: ``sphinx-build -W docs docs/_build`` makes it, without a network."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import fastnas  # noqa: E402  (the path comes first)
from fastnas.methods.registry import METHODS, summarize  # noqa: E402

project = "fastnas"
author = "The fastnas maintainers"
copyright = author
version = release = fastnas.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository: tests/test_documentation.py looks at them
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
nitpicky = False

sphinx_gallery_conf = {  # runs the examples; `-D plot_gallery=0` only shows them
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "abort_on_example_error": True,
    "show_memory": False,
    "min_reported_time": 1e9,
    "default_thumb_file": str(ROOT / "docs" / "images" / "cell.png"),
}

html_theme = "furo"
html_title = f"fastnas {version}"


def write_table_of_methods() -> None:
    rows = [(name, summarize(recipe), recipe().source) for name, recipe in METHODS.items()]
    lines = ["| name | what it does | source |", "| --- | --- | --- |", *(f"| `{a}` | {b} | {c} |" for a, b, c in rows)]
    (Path(__file__).parent / "_methods.inc").write_text("\n".join(lines) + "\n", encoding="utf-8")


write_table_of_methods()
