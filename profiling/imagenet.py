"""Does a search on ImageNet at 224 × 224 run on this machine, and does it survive a kill?

Runs the full supernet of a recipe, with all its classes, on real JPEG files for one epoch: once without interruption,
and once killed (SIGKILL) behind its first checkpoint and resumed. Compares what both leave, bit for bit, and prints
the peak that was planned beside that of the resident memory, and the time. Images of only some classes do: the others
keep their places in the classifier.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import tyro
from torch import Tensor

from fastnas.data import placeholder_data
from fastnas.experiment.parts import resolve
from fastnas.experiment.settings import Experiment, load_experiment
from fastnas.memory.budget import show_bytes
from fastnas.memory.planner import plan
from fastnas_kernels.check import invalid
from measuring.writing import commit

COLUMNS = (
    "recipe",
    "steps",
    "images",
    "uninterrupted",
    "planned peak",
    "resident peak less the baseline",
    "resident peak",
    "killed, resumed",
    "same result",
)
TINY = {
    "--method": "darts",
    "--space": "nasbench201",
    "--resolution": 32,
    "--channels": 4,
    "--cells": 1,
    "--retrain.auxiliary": 0,
}
"""Another network on the same images, which needs next to nothing: the rest of a search is what its process holds."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to run.

    Args:
        images: A folder of folders of JPEG files, one a class.
        recipes: Which recipes.
        copies: How often each image stands in the training set, as links, so that a class with one image has some for
            the weights and some for alpha.
        classes: Classes of the supernet.
        batch_size: Images of each half a step.
        checkpoint_steps: Steps between checkpoints.
        seed: Decides everything random.
    """

    images: Path
    recipes: tuple[str, ...] = ("pc_darts_imagenet", "proxyless_imagenet")
    copies: int = 4
    classes: int = 1000
    batch_size: int = 8
    checkpoint_steps: int = 10
    seed: int = 0


class Ended(NamedTuple):
    """A process that has come to its end: how, after how long, and the most memory that it held."""

    status: int
    seconds: float
    peak_bytes: int


def main(options: Options) -> int:
    print(
        f"torch {torch.__version__}, {os.environ.get('OMP_NUM_THREADS', 'all')} thread(s) of a CPU, commit {commit()}"
    )
    same = True
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "data"
        lay_out(options, root)
        bare = run([*command(options, options.recipes[0], root, TINY), "--run", str(Path(scratch) / "bare")])
        if bare.status != 0:
            raise invalid("imagenet", "the search of the tiny network must end well", bare)
        print(f"resident at most in a search with a tiny network, the baseline: {show_bytes(bare.peak_bytes)}\n")
        print("| " + " | ".join(COLUMNS) + " |\n" + "| --- " * len(COLUMNS) + "|", flush=True)
        for recipe in options.recipes:
            folders = [Path(scratch) / recipe / name for name in ("whole", "killed")]
            whole = run([*command(options, recipe, root), "--run", str(folders[0])])
            killed = run([*command(options, recipe, root), "--run", str(folders[1])], folders[1] / "checkpoint.pt")
            resumed = run([sys.executable, "-m", "fastnas", "search", "--resume", str(folders[1])])
            if (whole.status, resumed.status) != (0, 0):
                raise invalid("imagenet", "both searches must end well", (whole, resumed))
            if killed.status != -signal.SIGKILL:
                raise invalid("imagenet", "the search must be killed on its way", killed)
            planned = planned_bytes(load_experiment(folders[0] / "config.json"))
            equal, steps = results(folders[0]) == results(folders[1]), json_lines(folders[0])[-1]["step"]
            same &= equal
            row = (
                recipe,
                str(steps),
                str(2 * steps * options.batch_size),
                f"{whole.seconds:.0f} s",
                show_bytes(planned),
                show_bytes(whole.peak_bytes - bare.peak_bytes),
                show_bytes(whole.peak_bytes),
                f"{killed.seconds:.0f} s, {resumed.seconds:.0f} s",
                "bit for bit" if equal else "NO",
            )
            print("| " + " | ".join(row) + " |", flush=True)
    return 0 if same else 1


def planned_bytes(experiment: Experiment) -> int:
    """The peak that a plan promises for the search if nothing is evaluated again."""
    parts = resolve(experiment, placeholder_data(experiment.data, experiment.images))
    found = plan(
        parts.space,
        parts.method,
        parts.data,
        experiment.config,
        budget="1024GiB ram",
        timed=False,
        neighbours=False,
    )
    return found.everything.prediction.peak.num_bytes


def lay_out(options: Options, root: Path) -> None:
    """Links to the images as ImageNet's folders, and the names of all classes."""
    present = sorted(folder.name for folder in options.images.iterdir() if folder.is_dir())
    for name in present:
        for part, copies in (("train", options.copies), ("val", 1)):
            (root / part / name).mkdir(parents=True)
            for image in (options.images / name).iterdir():
                for copy in range(copies):
                    (root / part / name / f"{image.stem}_{copy}.JPEG").symlink_to(image.resolve())
    absent = [f"absent_{number:04d}" for number in range(options.classes - len(present))]
    (root / "classes.txt").write_text("\n".join([*present, *absent]))


def command(
    options: Options, recipe: str, root: Path, changes: Mapping[str, object] = MappingProxyType({})
) -> list[str]:
    """A search of one epoch in which alpha moves from the first step."""
    settings = {
        "--recipe": recipe,
        "--data": f"imagenet:{root}",
        "--fractions": "0.5 0.5",
        "--batch-size": options.batch_size,
        "--epochs": 1,
        "--warmup-epochs": 0,
        "--checkpoint-steps": options.checkpoint_steps,
        "--workers": 1,
        "--seed": options.seed,
        "--device": "cpu",
        **changes,
    }
    words = [word for name, value in settings.items() for word in (name, *str(value).split())]
    return [sys.executable, "-m", "fastnas", "search", "--no-retrain-searched", *words]


def run(arguments: Sequence[str], kill_behind: Path | None = None) -> Ended:
    """Run to the end, or kill some seconds after ``kill_behind`` is there."""
    started = perf_counter()
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, start_new_session=True)
    if kill_behind is not None:
        while process.poll() is None and not kill_behind.exists():
            sleep(0.2)
        sleep(5)
        os.killpg(process.pid, signal.SIGKILL)
    _, status, usage = os.wait4(process.pid, 0)
    return Ended(os.waitstatus_to_exitcode(status), perf_counter() - started, usage.ru_maxrss * 1024)


def results(folder: Path) -> str:
    """All that a search leaves, but for the time that it took."""
    records = [{name: value for name, value in record.items() if name != "seconds"} for record in json_lines(folder)]
    state = torch.load(folder / "checkpoint.pt", weights_only=True)["state"]
    tensors = {f"{kind}.{name}": hashed(x) for kind in ("w", "alpha") for name, x in state[kind].items()}
    return json.dumps([records, tensors, json.loads((folder / "genotype.json").read_text())])


def hashed(tensor: Tensor) -> str:
    """The bits of a tensor."""
    return tensor.numpy().tobytes().hex()


def json_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
