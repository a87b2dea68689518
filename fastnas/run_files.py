"""What the files of a run folder may hold: each of them is read through one of the schemas here.

Records of a search, a training and a ladder are JSON lines, each with a checksum of itself and of all before it, so
that changed, lost and repeated ones are noticed. Seconds do not count: two runs that found the same have the same
checksums.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypeVar

from pydantic import ConfigDict, Field, InstanceOf, TypeAdapter
from typing_extensions import TypedDict

from fastnas.errors import complaint
from fastnas.files import CHECKSUM, append_json_line, read_json, read_json_lines, sum_up, validate, write_atomically

T = TypeVar("T")
WHERE = "run"
_CONFIG = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
_UNSUMMED = ("seconds", CHECKSUM)

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Text = InstanceOf[str]
"""Also of names of files that no encoding knows, which pydantic's own strings refuse."""
Rows = dict[str, list[list[float]]]


class _Checked(TypedDict):
    """What has its fields checked, and may have others."""

    __pydantic_config__ = _CONFIG  # type: ignore[misc]


class _RollBack(_Checked):
    to: Count


class SearchEpoch(_Checked):
    """A line of ``metrics.jsonl`` of a search."""

    epoch: Count
    epochs: Positive
    stage: NotRequired[Count]
    step: Count
    weight_lr: float
    weight_decay: NotRequired[float]
    tau: NotRequired[float]
    alpha_moves: bool
    inner_loss: float
    inner_accuracy: NotRequired[Share]
    outer_loss: float
    outer_accuracy: NotRequired[Share]
    constant_output: NotRequired[bool]
    entropy: dict[str, float]
    alpha: Rows
    beta: dict[str, Any]
    mix: Rows
    edge_mix: dict[str, list[float]]
    genotype: Text
    roll_backs: NotRequired[list[_RollBack]]
    eigenvalue: NotRequired[float | None]
    seconds: Seconds


class TrainingEpoch(_Checked):
    """A line of ``metrics.jsonl`` of a training."""

    epoch: Count
    epochs: Positive
    lr: float
    train_loss: float
    train_accuracy: NotRequired[float | None]
    test_loss: float | None
    test_accuracy: NotRequired[float | None]
    test_confusion: NotRequired[list[list[Count]] | None]
    seconds: Seconds


class TrainedNetwork(_Checked):
    """An entry of ``comparison.json``."""

    name: Text
    genotype: NotRequired[dict[str, Any]]
    num_params: Count
    multiply_adds: Count
    test_accuracy: NotRequired[float]
    seconds: Seconds


SEARCHED, HALVING = "searched", "halving"
"""What the found architecture and the winner of random search with halving are called among the retrained networks."""


def restart_folder(run: Path, number: int) -> Path:
    """Where a run keeps its search ``number``; the first one, 0, is in the folder of the run itself."""
    return run / "restarts" / str(number) if number else run


class Comparison(_Checked):
    """``comparison.json``."""

    networks: list[TrainedNetwork]


class Ending(_Checked):
    """``stop.json``: the epoch whose architecture a search returned, and why."""

    epoch: Count
    reason: Text


class DataDescription(_Checked):
    """``data.json``."""

    name: NotRequired[Text]
    classes: NotRequired[list[Text]]
    test_images: NotRequired[Count]
    notes: NotRequired[list[Text]]


class _SearchBudget(_Checked):
    epochs: Positive
    warmup_epochs: Count | None
    fractions: Annotated[list[Share], Field(min_length=2, max_length=2)] | None
    evaluation_images: Positive | None
    searches: NotRequired[Positive]


class _LadderBudget(_Checked):
    proposals: Positive
    entrants: Positive


class _HalvingBudget(_Checked):
    entrants: Positive


class _RetrainingBudget(_Checked):
    epochs: Positive


class BudgetFile(_Checked):
    """``budget.json``: what a run with minutes decided."""

    search: NotRequired[_SearchBudget]
    ladder: NotRequired[_LadderBudget]
    halving: NotRequired[_HalvingBudget]
    retraining: NotRequired[_RetrainingBudget]


class RungRecord(_Checked):
    """A line of ``selection.jsonl``."""

    rung: Count
    genotype: Text
    origin: Text
    steps: Count
    loss: float
    accuracy: float
    score: NotRequired[str]
    seconds: Seconds


class SelectionFile(_Checked):
    """``selection.json``."""

    genotype: Text
    origin: Text
    rungs: list[RungRecord]


class StartFile(_Checked):
    """``init.json``: which weights a training began with."""

    source: Text
    identity: Text
    share: float
    fresh: list[str]
    unused: list[str]
    score: float | None


class _Seeded(_Checked):
    seed: NotRequired[int]


class _Deep(_Checked):
    cells: NotRequired[Positive]


class Settings(_Checked):
    """``config.json``, as far as a page shows it; :mod:`fastnas.experiment.settings` knows all of it."""

    method: NotRequired[Text]
    space: Text
    data: NotRequired[Text]
    versions: NotRequired[dict[str, str]]
    config: NotRequired[_Seeded]
    retrain: NotRequired[_Deep]


class BrokenImage(_Checked):
    """A line of ``broken.jsonl``."""

    image: Text
    reason: Text


def read_file(path: Path, schema: type[T]) -> T | None:
    """A JSON file of a run folder, or ``None`` if there is none."""
    if not path.exists():
        return None
    content = read_json(path)
    validate(TypeAdapter(schema), content, WHERE, f"{path} must be what a run writes")
    return content  # type: ignore[return-value]  (not what pydantic makes of it, which has another order)


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append a record, with a checksum of it and of all before it, and bring it to the disk."""
    before = read_json_lines(path)
    last = str(before[-1].get(CHECKSUM, "")) if before else ""
    append_json_line(path, {**record, CHECKSUM: _sum_up(record, last)})


def read_records(path: Path, schema: type[T]) -> list[T]:
    """The complete records of a file of JSON lines, without their checksums; a missing file has none.

    Args:
        path: The file.
        schema: One of the classes of this module.

    Raises:
        ValueError: In one line, if one of them is no such record, or was changed, lost or repeated. Lines without
            checksums, which earlier versions wrote, are only compared with the schema.
    """
    records: list[Any] = []
    adapter, last = TypeAdapter(schema), ""
    for number, line in enumerate(read_json_lines(path), 1):
        rule = f"line {number} of {path} must be what a run writes"
        found = line.pop(CHECKSUM, "")
        validate(adapter, line, WHERE, rule)
        records.append(line)
        if (found or last) and found != _sum_up(line, last):
            remedy = "It was changed, or lines before it were lost or repeated. Restore the file."
            raise ValueError(complaint(WHERE, rule, "another checksum", remedy))
        last = found
    return records


def read_epochs(path: Path, schema: type[T]) -> list[T]:
    """The records of the epochs of a search or a training, in order and without gaps."""
    records = read_records(path, schema)
    for number, record in enumerate(records):
        epoch, epochs = record["epoch"], record["epochs"]  # type: ignore[index]
        if epoch != number or epoch >= epochs:
            rule = f"line {number + 1} of {path} must be of epoch {number}"
            raise ValueError(complaint(WHERE, rule, f"epoch {epoch} of {epochs}", "Restore the file."))
    return records


def keep_epochs(path: Path, schema: type[T], done: int, write: bool = True) -> list[T]:
    """The records of the epochs that a checkpoint has behind it; later ones are dropped from the file."""
    records = read_epochs(path, schema)
    if len(records) < done:
        rule = f"{path} must hold the {done} epochs of the checkpoint beside it"
        remedy = f"Restore the file, or delete {path.with_name('checkpoint.pt')} to start this part of the run again."
        raise ValueError(complaint(WHERE, rule, f"{len(records)} of them", remedy))
    if write and path.exists():
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in read_json_lines(path)[:done])
        write_atomically(path, lambda file: file.write(text.encode()))
    return records[:done]


def _sum_up(record: Mapping[str, Any], before: str) -> str:
    return sum_up({name: value for name, value in record.items() if name not in _UNSUMMED}, before)
