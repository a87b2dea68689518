"""The end of a search: the ladder in place of the argmax."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from fastnas.data import ImageData
from fastnas.engine import SearchResult
from fastnas.experiment.watching import ShowProgress
from fastnas.methods.method import Method
from fastnas.ranks import Ranks
from fastnas.selection import LadderConfig, load_selection, save_selection, select
from fastnas.selection.proposals import Accept
from fastnas.spaces.formats import genotype_to_text, parse_genotype
from fastnas.spaces.space import Space
from fastnas.training.config import RetrainConfig, SearchConfig


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
    return replace(found, genotype=parse_genotype(ranks.told(text), scene.space))
