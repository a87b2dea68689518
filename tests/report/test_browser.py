"""The report in a real browser: on a phone and a desk, light and dark. Skipped where there is no Chromium or Chrome."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from fastnas.report.page import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")
# A window is at least 500 pixels wide, a frame in it is as narrow as a phone
FRAME = """<body><iframe style="width: {width}px; height: 9000px; border: 0" srcdoc="{page}"></iframe><script>
document.querySelector("iframe").onload = event => {{
  const {{ document: inner, innerWidth: width }} = event.target.contentWindow;
  const boxes = query => [...inner.querySelectorAll(query)].map(e => [e.tagName, e.getBoundingClientRect()]);
  document.body.dataset.measured = JSON.stringify({{
    width, needs: inner.documentElement.scrollWidth,
    wide: boxes("body > *").filter(([_, box]) => box.right > width + 1).map(([name, _]) => name),
    figures: boxes(".figure svg").map(([_, b]) => [b.left, b.top, b.right, b.bottom].map(Math.round)) }});
}}</script></body>"""


def browse(page, width, *options):
    command = [
        BROWSER,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--enable-logging=stderr",
    ]
    size = f"--window-size={width},9000"
    ran = subprocess.run(
        [*command, size, *options, page.as_uri()], capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert "CONSOLE" not in ran.stderr, ran.stderr
    return ran.stdout


def measure(page, width):
    """The width that the page takes, what is wider than the window, and where the figures are, in pixels."""
    host = page.with_name("host.html")
    host.write_text(FRAME.format(width=width, page=html.escape(page.read_text())))
    text = re.search(r'data-measured="([^"]+)"', browse(host, 1100, "--dump-dom"))[1]
    return json.loads(html.unescape(text))


def look(page, width, dark=False):
    """The page as pixels ``[H, W]`` from 0, black, to 1."""
    path = page.with_name("page.png")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    browse(page, width, scheme, f"--screenshot={path}")
    return np.asarray(Image.open(path).convert("L")) / 255


def ink(pixels, box):
    """The share of the pixels in ``box`` that differ from the paper."""
    left, top, right, bottom = (max(0, edge) for edge in box)
    part = pixels[top:bottom, left:right]
    return float((abs(part - pixels[2, 2]) > 0.2).mean())


def complaints(page, measured, pixels):
    """What a reader would complain of."""
    found = [f"{measured['wide']} beyond the edge"] if measured["needs"] > measured["width"] else []
    for box in measured["figures"]:
        if box[3] - box[1] < 120:
            found.append(f"a figure is {box[3] - box[1]} pixels high")
        elif not 0.005 < ink(pixels, box) < 0.4:
            found.append(f"{ink(pixels, box):.1%} of a figure is ink")
    return found


WRITTEN = []


@pytest.fixture
def page(request, tmp_path):
    """The report of a finished run, drawn once."""
    if not WRITTEN:
        WRITTEN.append(write_report(request.getfixturevalue("finished")).read_text())
    path = tmp_path / "page.html"
    path.write_text(WRITTEN[0])
    return path


def test_on_a_phone_at_night_nothing_is_cut_off_or_tiny(page):
    measured, pixels = measure(page, 390), look(page, 390, dark=True)
    assert measured["width"] == 390
    assert len(measured["figures"]) == 8
    assert complaints(page, measured, pixels) == []
    assert pixels[2, 2] < 0.2
    assert pixels.max() > 0.8


def test_on_a_desk_by_day_charts_are_large(page):
    measured, pixels = measure(page, 1000), look(page, 1000)
    assert complaints(page, measured, pixels) == []
    assert min(right - left for left, _, right, _ in measured["figures"]) > 600
    assert pixels[2, 2] == 1


def test_a_page_that_overflows_and_a_flat_chart_are_found(page):
    wide = '<p style="width: 900px">wide</p><style>.figure svg { height: 9px !important }</style></body>'
    page.write_text(page.read_text().replace("</body>", wide))
    measured = measure(page, 390)
    found = complaints(page, measured, np.ones((5000, 390)))
    assert found[0] == "['P'] beyond the edge"
    assert found[1] == "a figure is 9 pixels high"
