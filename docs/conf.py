"""The documentation: ``sphinx-build -W docs docs/_build`` makes it, without a network."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import fastnas  # noqa: E402  (the path comes first)

project = "fastnas"
author = "The fastnas maintainers"
copyright = author
version = release = fastnas.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository: tests/test_documentation.py looks at them
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
nitpicky = False

html_theme = "furo"
html_title = f"fastnas {version}"
