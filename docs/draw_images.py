"""Draw the README's pictures from raw results: ``python docs/draw_images.py``.

The picture of the report is a screenshot of the default run:
``chromium --headless --screenshot=docs/images/report.png --window-size=1000,760 RUN/report.html``.
"""

import re
from pathlib import Path

from matplotlib.figure import Figure

from fastnas.report.draw import save_drawing
from fastnas.spaces import NASBENCH201
from fastnas.spaces.formats import parse_genotype

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
FOUND = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"


def measured(peer: str) -> dict[str, tuple[float, float]]:
    """Milliseconds of a step and saved MB, by the row of the first table of ``peer`` in ``peers-cpu.md``."""
    text = (ROOT / "profiling" / "results" / "peers-cpu.md").read_text()
    table = text.partition(f"| {peer} | ms | faster | saved MB | fewer |\n")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| ([a-z_, ]+?) \| (\d+) \| [\d.]+ \| (\d+) \|", table, re.MULTILINE)
    return {name: (float(ms), float(mb)) for name, ms, mb in rows}


def draw_bars() -> None:
    """Step time and saved memory before and after ``accelerate``."""
    figure = Figure(figsize=(7, 2.1), layout="constrained")
    peers = {peer: measured(peer) for peer in ("DARTS", "PC-DARTS")}
    for axes, column, title in zip(figure.subplots(1, 2), (0, 1), ("ms a step", "MB saved for backward"), strict=True):
        for place, (name, colour) in enumerate((("as published", "#9aa0a6"), ("accelerated", "#1a73e8"))):
            widths = [rows[name][column] for rows in peers.values()]
            bars = axes.barh([place * 0.4 + row for row in range(len(peers))], widths, 0.36, color=colour, label=name)
            axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
        axes.set(title=title, yticks=[row + 0.2 for row in range(len(peers))], yticklabels=list(peers))
        axes.invert_yaxis()
        axes.margins(x=0.18)
        axes.set_xticks([])
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(IMAGES / "accelerate.svg", metadata={"Date": None})


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    draw_bars()
    for suffix in ("svg", "png"):  # the gallery takes no SVG
        save_drawing(parse_genotype(FOUND, NASBENCH201), IMAGES / f"cell.{suffix}")
