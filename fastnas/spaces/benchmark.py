"""What is known of an architecture: tables of accuracies, such as NAS-Bench-201's."""

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path

from fastnas.spaces.formats import genotype_to_text
from fastnas.spaces.genotype import Genotype
from fastnas_kernels.check import complaint, invalid, require

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


def look_up(table: Path, genotype: Genotype, column: str | None = None) -> TableEntry:
    """Find ``genotype`` in a table.

    Args:
        table: A CSV file, gzipped or not, with a column ``architecture`` and columns of accuracies in percent.
        genotype: What to find.
        column: Which accuracy; ``None`` for the last column.

    Raises:
        ValueError: If the file is no such table or does not know the architecture.
    """
    where = "table"
    require(table.is_file(), where, "file must exist", str(table))
    opener = gzip.open if table.suffix == ".gz" else open
    try:
        with opener(table, "rt") as file:
            rows = list(csv.DictReader(file))
        fields = list(rows[0]) if rows else []
        accuracy_of = column or (fields[-1] if fields else "")
        has_columns = ARCHITECTURE in fields and accuracy_of in fields
        require(has_columns, where, f"{table} must have the columns {ARCHITECTURE} and {accuracy_of}", fields)
        known = {
            row[ARCHITECTURE]: _read_accuracy(table, number, row[accuracy_of]) for number, row in enumerate(rows, 2)
        }
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, TypeError) as error:
        raise ValueError(complaint(where, f"{table} must be a CSV file", type(error).__name__)) from None
    text = genotype_to_text(genotype)
    require(text in known, where, f"{table} must know the architecture", text)
    accuracy = known[text]
    rank = 1 + sum(other > accuracy for other in known.values())
    return TableEntry(accuracy_of, accuracy, rank, len(known), max(known.values()), sum(known.values()) / len(known))


def _read_accuracy(table: Path, line: int, text: str | None) -> float:
    try:
        accuracy = float(text or "")
    except ValueError:
        accuracy = float("nan")
    if not 0 <= accuracy <= 100:
        raise invalid("table", f"{table} must hold accuracies in percent", f"{text!r} in line {line}")
    return accuracy
