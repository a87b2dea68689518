"""Train the network of a genotype from scratch and measure it on the test set."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from tyro.conf import Positional, Suppress, arg

from fastnas.cli.options import quote_command
from fastnas.cli.printing import describe_data, describe_folder, tabulate_comparison
from fastnas.cli.recipe import RECIPE_HELP, SMOKE_HELP, recipe_in
from fastnas.data import DataConfig, load_data
from fastnas.data.config import Augment, Colour
from fastnas.errors import invalid
from fastnas.experiment.folder import new_folder, open_run
from fastnas.experiment.progress import Display
from fastnas.experiment.settings import DATA_HELP
from fastnas.files import read_json, save_tensors, write_json
from fastnas.ranks import Ranks, join_processes
from fastnas.spaces.formats import as_genotype, genotype_to_json
from fastnas.spaces.genotype import Genotype
from fastnas.supernet.own import load_space
from fastnas.training.config import RetrainConfig, TrainingSetup
from fastnas.training.retrain import retrain
from fastnas.training.start import SUPERNET

FIRST = ("--data", "--recipe", "--epochs", "--channels", "--cells", "--batch-size", "--lr", "--seed", "--run")


@dataclass(frozen=True, kw_only=True)
class ImageOptions(DataConfig):
    """What to do with the images; `--augment` and `--colour` are those of the training alone."""

    augment: Suppress[Augment | None] = None
    colour: Suppress[Colour | None] = None


@dataclass(frozen=True, kw_only=True)
class Retrain:
    """Train the network of a genotype from scratch and measure it on the test set.

    Args:
        genotype: A built-in name, a file, or the text of a genotype.
        space: FILE.py:NAME or module:name of the genotype's space, if it is one of your own.
        recipe: Settings to start from.
        smoke: Shrink the recipe.
        trust: Let a config.json name code to run.
        data: Where the images come from.
        run: The run folder, a new one or one to go on with; by default runs/ and the time. Beside torchrun, which
            takes --run for an option of its own, write --folder.
        extend: Go on with a run of fewer epochs; a line says what becomes of the learning rate.
        images: What to do with them.
        setup: How and where to train.
        config: The training.
    """

    genotype: Positional[str]
    space: str | None = None
    recipe: Annotated[str, arg(help=RECIPE_HELP)] = "digits"
    smoke: Annotated[bool, arg(help=SMOKE_HELP)] = False
    trust: bool = False
    data: Annotated[str, arg(help=DATA_HELP)] = "digits"
    run: Annotated[Path | None, arg(aliases=["--folder"])] = None
    extend: bool = False
    images: Annotated[ImageOptions, arg(name="")] = ImageOptions()
    setup: Annotated[TrainingSetup, arg(name="")] = TrainingSetup()
    config: Annotated[RetrainConfig, arg(name="")] = RetrainConfig()


def default(arguments: list[str]) -> Retrain:
    """The command with the defaults of the recipe that ``arguments`` name."""
    recipe = recipe_in(arguments, otherwise="digits_darts")  # a genotype of any space, at sizes that fit all cells
    of_search: dict[str, Any] = {field.name: getattr(recipe.config, field.name) for field in fields(TrainingSetup)}
    fraction = 0.1 if "--smoke" in arguments else 1.0  # a search may take a share of the images, and this all
    setup = replace(TrainingSetup(**of_search), train_fraction=fraction)
    images = ImageOptions(**vars(recipe.images))
    config = replace(recipe.retrain, init_from=None) if recipe.retrain.init_from == SUPERNET else recipe.retrain
    return Retrain(genotype=tyro.MISSING, data=recipe.data, images=images, setup=setup, config=config)


def run(command: Retrain, console: Console) -> None:
    """Retrain as the command says, alone or as one of several processes."""
    with join_processes(command.setup.device) as ranks:
        _retrain(ranks, command, console)


def _retrain(ranks: Ranks, command: Retrain, console: Console) -> None:
    own = None if command.space is None else load_space(command.space)
    genotype = as_genotype(command.genotype, own)
    folder = Path(ranks.broadcast(str(command.run or new_folder("retrain"))))
    with ranks.first_before_others():
        data = load_data(command.data, command.images)
    with open_run(folder, ranks):
        if ranks.is_first:
            _require_folder_of(genotype, folder)
            write_json(folder / "genotype.json", genotype_to_json(genotype), checksum=True)
        line = describe_folder(folder, f"repeat the command with {quote_command('--run', folder)}")
        for text in [line, *describe_data(data)]:
            console.out(text)
        with Display(f"retrain on {data.name}", console) as display:
            result = retrain(
                genotype,
                data,
                command.config,
                command.setup,
                folder=folder,
                own=own,
                extend=command.extend,
                on_step=display.step,
                on_epoch=display.epoch,
                ranks=ranks,
            )
        if ranks.is_first:
            save_tensors(folder / "network.pt", result.network.state_dict())
    if result.start is not None:
        console.out(result.start.describe(result.score_kind.show))
    console.print(tabulate_comparison(result, []))


def _require_folder_of(genotype: Genotype, folder: Path) -> None:
    """Raise unless ``folder`` may be a retraining of ``genotype``: what is there of another one is not written over."""
    rule, remedy = f"--run must name a folder for a retraining of this architecture, not {folder}", "Name a new folder."
    if (folder / "config.json").exists():
        raise invalid("retrain", rule, "the run of a search", remedy)
    path = folder / "genotype.json"
    if path.exists() and read_json(path) != genotype_to_json(genotype):
        raise invalid("retrain", rule, f"another one in {path.name}", remedy)
