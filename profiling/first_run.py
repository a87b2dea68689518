"""Does the first run beat random search with halving? Seed by seed, in processor time.

`fastnas search` gives random search the wall-clock time of the search, which another load in between makes unfair. Here
both are counted in processor time of one thread, and the number of architectures is fixed: with five, random search
takes about as long as the search does. One line of results for each seed, appended: run it again to go on.
"""

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import process_time

import torch
import tyro

from fastnas.data import ImageData, load_data
from fastnas.engine import search
from fastnas.experiment.parts import find_method
from fastnas.experiment.recipes import RECIPES
from fastnas.experiment.selecting import draw
from fastnas.experiment.settings import Experiment
from fastnas.files import append_json_line, read_json_lines
from fastnas.seeds import stream
from fastnas.selection import LadderConfig, climb, derive_from_average
from fastnas.selection.proposals import Proposal
from fastnas.spaces import genotype_to_text
from fastnas.supernet.own import load_space
from fastnas.training.retrain import retrain


@dataclass(frozen=True, kw_only=True)
class FirstRun:
    """What to measure.

    Args:
        seeds: Of the searches, the draws and the trainings.
        entrants: Random architectures that train against each other.
        results: File of JSON lines.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    entrants: int = 5
    results: Path = Path("profiling/results/first-run.jsonl")


@dataclass(frozen=True)
class Compared:
    """One seed: test accuracies of what both found, and the processor seconds of finding it."""

    seed: int
    searched: float
    halving: float
    genotype: str
    opponent: str
    search_cpu: float
    halving_cpu: float


def main(options: FirstRun) -> None:
    """Measure the seeds that are not in the file, and print who won."""
    torch.set_num_threads(1)
    recipe = RECIPES["digits"]
    data = load_data(recipe.data, recipe.images)
    done = {one["seed"] for one in read_json_lines(options.results)}
    for seed in options.seeds:
        if seed not in done:
            append_json_line(options.results, asdict(compare(recipe, data, seed, options.entrants)))
            print(f"seed {seed}: done", file=sys.stderr)
    print("| seed | searched | random search with halving | CPU s of the search | of halving |")
    print("| --- " + "| ---: " * 4 + "|")
    records = sorted(read_json_lines(options.results), key=lambda one: one["seed"])
    for one in records:
        row = f"{100 * one['searched']:.2f} % | {100 * one['halving']:.2f} %"
        print(f"| {one['seed']} | {row} | {one['search_cpu']:.0f} | {one['halving_cpu']:.0f} |")
    print(f"\nThe search wins {sum(one['searched'] > one['halving'] for one in records)} of {len(records)}.")


def compare(recipe: Experiment, data: ImageData, seed: int, entrants: int) -> Compared:
    """Search as the first run does, let random architectures train against each other, and train both winners."""
    method, space = find_method(recipe.method), load_space(recipe.space)
    config, training = replace(recipe.config, seed=seed, device="cpu"), recipe.retrain
    started = process_time()
    found = derive_from_average(space, method, search(space, method, data, config).history)
    between = process_time()
    steps = max(1, training.epochs * (len(data.train.labels) // training.batch_size) // 4)
    genotypes = draw(space, entrants, stream(seed, "random search"), lambda _: True)
    proposals = [Proposal(genotype, "uniform") for genotype in genotypes]
    ladder = LadderConfig(entrants=entrants, steps=steps)
    opponent = climb(proposals, space, data, config, training, ladder).genotype
    ended = process_time()
    texts = genotype_to_text(found), genotype_to_text(opponent)
    scores = [retrain(genotype, data, training, config).score for genotype in (found, opponent)]
    return Compared(seed, *scores, *texts, between - started, ended - between)


if __name__ == "__main__":
    main(tyro.cli(FirstRun, description=__doc__))
