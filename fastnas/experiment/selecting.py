"""The end of a search: the ladder in place of the argmax."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from fastnas.data import ImageData
from fastnas.engine import SearchResult
from fastnas.experiment.progress import ShowProgress
from fastnas.methods.method import Method
from fastnas.ranks import Ranks
from fastnas.run_files import SEARCHED
from fastnas.seeds import stream
from fastnas.selection import LadderConfig, climb, load_selection, save_selection, select
from fastnas.selection.proposals import Accept, Proposal
from fastnas.spaces.formats import genotype_to_text, parse_genotype
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.sampling import random_genotype
from fastnas.spaces.space import Space
from fastnas.training.config import RetrainConfig, SearchConfig

MOST_DRAWS = 2000  # of random architectures, so that the search for some within a limit ends


class Scene(NamedTuple):
    """What a search searched, with what, and how its networks are trained."""

    space: Space
    method: Method
    data: ImageData
    config: SearchConfig
    training: RetrainConfig


def climb_from(
    found: SearchResult,
    scene: Scene,
    ladder: LadderConfig,
    accept: Accept,
    folder: Path,
    show_progress: ShowProgress,
    ranks: Ranks,
) -> SearchResult:
    """``found`` with the architecture that the ladder chooses; the first of several processes climbs, and the others
    wait for it.

    Args:
        found: What the search returned.
        scene: What it searched.
        ladder: How far to go.
        accept: Which architectures may be chosen.
        folder: The run folder, which gets ``selection.jsonl`` on the way and ``selection.json`` at the end.
        show_progress: Makes the display.
        ranks: The processes that search together.
    """
    text = ""
    if ranks.is_first:
        chosen = load_selection(folder, scene.space)
        if chosen is None:
            with show_progress("select: the ladder") as display:
                chosen = select(found, *scene, ladder, accept=accept, folder=folder, on_step=display.step)
            save_selection(chosen, folder)
        text = genotype_to_text(chosen.genotype)
    return replace(found, genotype=parse_genotype(ranks.broadcast(text), scene.space))


def halve_random(
    scene: Scene, ladder: LadderConfig, accept: Accept, folder: Path, show_progress: ShowProgress, ranks: Ranks
) -> Genotype:
    """The best of random architectures that train against each other (Jamieson and Talwalkar, 2016, arXiv:1502.07943);
    the first of several processes trains them, and the others wait for it.

    Args:
        scene: Where they are drawn, and how they are trained.
        ladder: How many, and how long.
        accept: Which architectures may be drawn.
        folder: Gets ``selection.jsonl`` on the way and ``selection.json`` at the end.
        show_progress: Makes the display.
        ranks: The processes of the run.
    """
    text = ""
    if ranks.is_first:
        folder.mkdir(exist_ok=True)
        chosen = load_selection(folder, scene.space)
        if chosen is None:
            seed = stream(scene.config.seed, "random search")
            entrants = [Proposal(genotype, "uniform") for genotype in draw(scene.space, ladder.entrants, seed, accept)]
            arguments = entrants, scene.space, scene.data, scene.config, scene.training, ladder
            with show_progress("compare: random search with halving") as display:
                chosen = climb(*arguments, folder=folder, on_step=display.step)
            save_selection(chosen, folder)
        text = genotype_to_text(chosen.genotype)
    return parse_genotype(ranks.broadcast(text), scene.space)


def draw_contestants(space: Space, found: Genotype, count: int, seed: int, accept: Accept) -> dict[str, Genotype]:
    """The found architecture, then random ones that differ from it and from each other, by their names.

    Args:
        space: Of all of them.
        found: What the search found.
        count: Random ones; fewer where hardly any is accepted.
        seed: Decides which.
        accept: Which random architectures may stand beside it.
    """
    others = draw(space, count, seed, accept, found)
    return {SEARCHED: found, **{f"random_{number}": genotype for number, genotype in enumerate(others, 1)}}


def draw(space: Space, count: int, seed: int, accept: Accept, besides: Genotype | None = None) -> list[Genotype]:
    """Random architectures that differ from each other and from ``besides``; fewer where hardly any is accepted."""
    genotypes, taken = list[Genotype](), set() if besides is None else {besides.canonical()}
    for number in range(MOST_DRAWS):
        if len(genotypes) == count:
            break
        genotype = random_genotype(space, seed * 1_000_003 + number)
        if genotype.canonical() not in taken and accept(genotype):
            taken.add(genotype.canonical())
            genotypes.append(genotype)
    return genotypes
