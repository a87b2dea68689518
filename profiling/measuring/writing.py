"""Tables for a terminal and a Markdown page, and the raw numbers beside them."""

import json
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import triton

from fastnas.files import write_atomically


@dataclass(frozen=True)
class Section:
    """An answer to one question.

    Args:
        title: The question.
        columns: Heads of the table.
        rows: Its cells as text.
        notes: What a reader has to know, a sentence each.
        records: The same in numbers, and more of them: what is written as JSON.
        ok: Whether all that was checked holds.
    """

    title: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    records: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    ok: bool = True

    def __str__(self) -> str:
        parts = [f"## {self.title}", *self.notes]
        if self.rows:
            lines = [self.columns, ["---" if i == 0 else "---:" for i in range(len(self.columns))], *self.rows]
            parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
        return "\n\n".join(parts) + "\n"


def provenance(properties: Mapping[str, str]) -> dict[str, str]:
    """Where, when and with what numbers were measured."""
    return {
        **properties,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, Triton {triton.__version__}",
        "command": shlex.join(["python", *sys.argv]),
    }


def commit() -> str:
    """The commit of this file, and whether anything differs from it."""
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        except OSError:  # no git here
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short", "HEAD")
    return f"{commit} with changes" if commit and git("status", "--porcelain", "-uno") else commit or "unknown"


def slug(name: str) -> str:
    """``name`` in letters, digits and hyphens, for a file."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def write(folder: Path, origin: Mapping[str, str], sections: Sequence[Section], raw: Mapping[str, Any]) -> Path:
    """A page ``<device>.md`` and ``<device>.json`` in ``folder``; returns the page."""
    page = folder / f"{slug(origin['name'])}.md"
    facts = "\n".join(f"- {key}: {f'`{value}`' if key == 'command' else value}" for key, value in origin.items())
    text = "\n".join([f"# {origin['name']}\n", f"{facts}\n", *(str(section) for section in sections)])
    folder.mkdir(parents=True, exist_ok=True)
    numbers = json.dumps({"origin": dict(origin), **raw}, indent=1) + "\n"
    for path, content in ((page, text), (page.with_suffix(".json"), numbers)):
        write_atomically(path, lambda file, content=content: file.write(content.encode()))
    return page
