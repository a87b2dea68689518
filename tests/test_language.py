"""What users read is plain English: short sentences, and the words of docs/vocabulary.md.

This is the project's linter of prose. It reads the pages, and every docstring and text of the sources: help, errors,
progress and reports.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "fastnas").rglob("*.md")]
SOURCES = [*(ROOT / "fastnas").rglob("*.py"), *(ROOT / "examples").glob("*.py")]
MOST_WORDS = 40
BANNED = {
    r"judge[ds]?(?!\.json)|judging": "validate, evaluate",
    r"heeds?": "support, use",
    r"settle[ds]?": "project after the step",
    r"told": "name who says what to whom: is called with, knows",
    r"alike": "equal, the same",
    r"update protocol|search protocol": "update schedule",
    r"statistics of all": "synchronised batch normalisation",
    r"evaluated again": "recomputed",
    r"\w+'s affair|its affair": "say who decides it",
    r"bear(?:s|ing)? a": "has",
    r"wherein|thereof|therein|hitherto|hence": "a plain word",
}
"""Words of the old dialect, and what to write instead."""


def prose(markdown):
    """The paragraphs, list items and table cells of a page, without code, comments and addresses."""
    text = re.sub(r"```.*?```|<!--.*?-->|\]\([^)]*\)|\$\$.*?\$\$", " ", markdown, flags=re.DOTALL)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*|#:]|\d+\.) ?)", text):
        yield from block.split("|") if block.lstrip().startswith("|") else [block]


def texts(source):
    """The paragraphs of every docstring and text of a source file, each with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = re.sub(r"::\n(?:\n| {8}.*)*|>>>.*\n?|\.\.\. .*\n?", "\n\n", node.value)
            for block in re.split(r"\n\s*\n|\n(?= *\w+: )|\n(?= *(?:[-*|%]|\d+\.) )", text):
                yield node.lineno, block


def faults(text):
    """What is wrong with a paragraph; code and names of files are no words."""
    text = re.sub(r"`[^`]*`", "code", text.replace("``", "`"))
    if " " not in text.strip() or text.startswith("Genotype("):
        return []
    found = [
        f"{match[0]!r}: {better}" for word, better in BANNED.items() for match in re.finditer(rf"\b(?:{word})\b", text)
    ]
    sentences = re.split(r"(?<=[.!?:;])\s+", " ".join(text.split()))
    long = [sentence for sentence in sentences if len(sentence.split()) > MOST_WORDS]
    return [*found, *(f"{len(sentence.split())} words: {sentence[:60]} ..." for sentence in long)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_is_plain_english(page):
    if page.name != "vocabulary.md":
        assert [fault for block in prose(page.read_text()) for fault in faults(block)] == []


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_texts_and_docstrings_are_plain_english(file):
    assert [(line, fault) for line, text in texts(file.read_text()) for fault in faults(text)] == []


def test_a_long_sentence_and_the_old_dialect_are_found():
    long = " ".join(["word"] * 41)
    assert faults(long) == [f"41 words: {long[:60]} ..."]
    assert faults("The step is judged.") == ["'judged': validate, evaluate"]
    assert faults("Short. " * 41) == []
    page = f"# T\n\n| a | {long} |\n\n```\n{long}\n```\n"
    assert sum(map(len, map(faults, prose(page)))) == 1
    assert [line for line, text in texts(f'x = 1\nerror = "{long}"') if faults(text)] == [2]
