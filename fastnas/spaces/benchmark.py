"""What is known of an architecture: tables of accuracies, such as NAS-Bench-201's."""

import csv
import gzip
import math
from dataclasses import dataclass
from pathlib import Path

from fastnas.errors import invalid
from fastnas.spaces.formats import genotype_to_text, parse_genotype
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.space import Space

WHERE = "table"
ARCHITECTURE = "architecture"


@dataclass(frozen=True)
class TableEntry:
    """Where an architecture stands in a table.

    Args:
        column: The accuracy that was looked up.
        accuracy: That of the architecture, in percent.
        rank: 1 for the best; ties share the better rank.
        size: Architectures in the table.
        best: The highest accuracy of the table, in percent.
        mean: The mean accuracy of the table, in percent.
    """

    column: str
    accuracy: float
    rank: int
    size: int
    best: float
    mean: float

    @property
    def regret(self) -> float:
        """What the best architecture has more, in percentage points."""
        return self.best - self.accuracy

    def __str__(self) -> str:
        return (
            f"{self.column} {self.accuracy:.2f} %, rank {self.rank:,} of {self.size:,}, "
            f"regret {self.regret:.2f} points to the best ({self.best:.2f} %); mean of the table {self.mean:.2f} %"
        )


@dataclass(frozen=True)
class Table:
    """Accuracies by architecture.

    Args:
        name: Its file, for errors.
        column: Which accuracy.
        accuracies: In percent, by the text of the genotype.
    """

    name: str
    column: str
    accuracies: dict[str, float]


def read_table(path: Path, column: str | None = None) -> Table:
    """Read a table.

    Args:
        path: A CSV file, gzipped or not, with a column ``architecture`` and columns of accuracies in percent.
        column: Which accuracy; ``None`` for the last column.
    """
    if not path.is_file():
        raise invalid(WHERE, "file must exist", str(path))
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, TypeError) as error:
        raise invalid(WHERE, f"{path} must be a CSV file", type(error).__name__) from None
    fields = [str(field) for field in rows[0]] if rows else []
    name = column or (fields[-1] if fields else "")
    if ARCHITECTURE not in fields or name not in fields or name == ARCHITECTURE:
        raise invalid(WHERE, f"{path} must have the columns {ARCHITECTURE} and {column or 'one of accuracies'}", fields)
    accuracies = {}
    for line, row in enumerate(rows, 2):
        try:
            accuracies[row[ARCHITECTURE]] = float(row[name])
        except (TypeError, ValueError):
            accuracies[row[ARCHITECTURE]] = math.nan
        if not 0 <= accuracies[row[ARCHITECTURE]] <= 100:
            rule = f"{path}, line {line}, must have an accuracy in percent as {name}"
            raise invalid(WHERE, rule, repr(str(row[name])[:40]))
    return Table(str(path), name, accuracies)


def require_space(table: Table, space: Space) -> None:
    """Raise unless the architectures of ``table`` are those of ``space``: it is looked into at the end of a search."""
    first = next(iter(table.accuracies))
    try:
        found = parse_genotype(first, space).space
    except ValueError:
        found = "no known one"
    if found != space.name:
        raise invalid(WHERE, f"{table.name} must be a table of the space {space.name}", f"{first[:60]!r} of {found}")


def look_up(table: Table, genotype: Genotype) -> TableEntry:
    """Find ``genotype`` in a table."""
    text, known = genotype_to_text(genotype), table.accuracies
    if text not in known:
        raise invalid(WHERE, f"{table.name} must know the architecture", text)
    accuracy = known[text]
    rank = 1 + sum(other > accuracy for other in known.values())
    return TableEntry(table.column, accuracy, rank, len(known), max(known.values()), sum(known.values()) / len(known))
