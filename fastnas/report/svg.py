"""Figures as SVG text, small and fit to stand in a page."""

import io
import re

import matplotlib
from matplotlib.figure import Figure

NO_METADATA = {"Date": None, "Creator": None, "Type": None, "Format": None}
POSITIONS = re.compile(r' (?:d|x|y|points|transform|viewBox)="[^"]*"')
LONG_DECIMALS = re.compile(r"(\.\d\d)\d+")
UNUSED_ID = re.compile(r' id="[\w.]+_\d+"')  # what is referred to has a name without an underscore
LONE_FONT = re.compile(r"'DejaVu Sans'(?=[\";])")


def svg(figure: Figure) -> str:
    """A figure as one SVG element.

    Coordinates are cut to a hundredth of a point, and ids that nothing refers to are left out, so that several
    figures can stand in one page.
    """
    text = io.StringIO()
    # Text stays text: it can be read aloud, searched for and copied, and it takes a tenth of the bytes
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fastnas"}):
        figure.savefig(text, format="svg", metadata=NO_METADATA)
    drawing = text.getvalue()
    drawing = POSITIONS.sub(lambda match: LONG_DECIMALS.sub(r"\1", match[0]), drawing[drawing.index("<svg") :])
    return LONE_FONT.sub("'DejaVu Sans', sans-serif", UNUSED_ID.sub("", drawing))
