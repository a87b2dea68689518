"""What README and documentation show is run: ``pytest -n 0 README.md docs``.

Python blocks of a page run one after another in one namespace, commands of a ``console`` block (lines that begin with
``$``) in a shell, both in one folder of the page's own. A block after ``<!-- not run: WHY -->`` is left out.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import sybil
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser
from sybil.region import Region

ROOT = Path(__file__).parent


class ConsoleParser(CodeBlockParser):
    """``console`` blocks: each line that begins with ``$`` is a command that has to end with status 0."""

    language = "console"

    def evaluate(self, example: sybil.Example) -> None:
        lines = str(example.parsed).replace("\\\n", " ").splitlines()
        for command in (line.removeprefix("$ ") for line in lines if line.startswith("$ ")):
            ran = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=900)
            assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"


def unless_marked(parser):
    """``parser`` without the blocks that stand below a comment ``<!-- not run: WHY -->``."""

    def regions(document: sybil.Document) -> Iterator[Region]:
        for region in parser(document):
            if not document.text[: region.start].rstrip().rpartition("\n")[2].startswith("<!-- not run: "):
                yield region

    return regions


def enter(namespace):
    namespace["_back"], namespace["_folder"] = Path.cwd(), tempfile.TemporaryDirectory()
    os.chdir(namespace["_folder"].name)
    sources = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")])
    os.environ.update(PYTHONPATH=sources, PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def leave(namespace):
    os.chdir(namespace["_back"])
    namespace["_folder"].cleanup()


pytest_collect_file = sybil.Sybil(
    parsers=[unless_marked(PythonCodeBlockParser()), unless_marked(ConsoleParser())],
    patterns=["README.md", "docs/**/*.md", "docs/*.md", "fastnas/**/README.md"],
    setup=enter,
    teardown=leave,
).pytest()
