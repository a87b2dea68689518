"""Trained networks as folders: ``weights.safetensors`` beside ``model.json``, which describes the network whole."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load as load_weights
from safetensors.torch import save
from torch import Tensor

from fastnas.errors import invalid
from fastnas.files import read_json, validate, write_atomically, write_json
from fastnas.networks.derived import BuildNetwork, build_network, build_own_network
from fastnas.networks.network import DerivedNetwork
from fastnas.spaces.cell_space import CellSpace
from fastnas.spaces.formats import genotype_from_json, genotype_to_json, space_from_json, space_to_json
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.registry import SPACES, space_by_name
from fastnas.spaces.space import Space
from fastnas.supernet.dense import fit_head
from fastnas.supernet.layout import Fit, Sizes, height_and_width
from fastnas.supernet.own import as_space
from fastnas.tasks import SCORES, Score, Task, task_from_json

WEIGHTS, DESCRIPTION = "weights.safetensors", "model.json"
_DIGEST = "weights_sha256"  # the key of the description that tells damaged weights
_PLACES = (".", "model", "retrain/searched/model")  # in a run folder


@dataclass(frozen=True)
class Preprocessing:
    """From an image to what a network reads.

    Args:
        channels: 3 for colour, 1 for grey images.
        resolution: Height and width in pixels.
        mean: Of each channel, of values in [0, 1].
        std: Likewise, the standard deviation.
        fit: How an image of another shape gets to the resolution.
        margin: With ``crop``, whether the image first covers a size larger by 256/224.
        values: Of networks that were trained on arrays, the numbers that stand for 0 and 255 of a pixel.
    """

    channels: int
    resolution: Sizes
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: Fit = "crop"
    margin: bool = False
    values: tuple[float, float] | None = None

    def __call__(self, image: Image.Image | Path | str) -> Tensor:
        """One image, or its file, as float32 ``[channels, height, width]``."""
        from fastnas.networks.preprocessing import FitTo, read_pixels  # noqa: PLC0415  (torchvision takes a second)

        if self.values not in (None, (0.0, 1.0)):
            rule = "the network must have been trained on images"
            remedy = "Call model(...) with a batch of such arrays, after preprocessing.normalize."
            raise invalid("predict", rule, f"arrays of values from {self.values[0]:g} to {self.values[1]:g}", remedy)
        if not isinstance(image, Image.Image):
            try:
                with Image.open(image) as file:
                    return self(file.copy())
            except OSError as error:
                raise invalid("image", f"{image} must be an image file", type(error).__name__) from None
        if image.mode.startswith(("I", "F")):
            raise invalid("image", "pixels must have 8 bits a channel", f"mode {image.mode}", "Convert it to 8 bits.")
        fitted = FitTo(height_and_width(self.resolution), self.fit, self.margin)(read_pixels(image, self.channels))
        return self.normalize(fitted if self.values is None else fitted / 255)

    @property
    def unit(self) -> tuple[float, float]:
        """The numbers that stand for black and white in what :meth:`normalize` takes."""
        return (0.0, 255.0) if self.values is None else self.values

    def normalize(self, values: Tensor) -> Tensor:
        """From pixels in [0, 255], or numbers as the arrays hold, ``[..., C, H, W]``, to what the network reads."""
        shape = [-1, *[1] * (2 if isinstance(self.resolution, int) else len(self.resolution))]
        mean, std = (torch.tensor(x, device=values.device).view(shape) for x in (self.mean, self.std))
        low, high = self.unit
        return ((values - low) / (high - low) - mean) / std


def find_preprocessing(
    normalise: Callable[[Tensor], Tensor],
    channels: int,
    resolution: Sizes,
    fit: Fit = "crop",
    margin: bool = False,
    values: tuple[float, float] | None = None,
) -> Preprocessing:
    """The numbers of ``normalise``, a function from uint8 images to float32 that is affine in each channel."""
    dark, middle, light = (
        normalise(torch.full((1, channels, 1, 1), value, dtype=torch.uint8)).double().flatten()
        for value in (0, 51, 255)
    )
    if not torch.allclose(middle, dark + (light - dark) / 5, atol=1e-5):
        raise invalid("model", "the normalisation of the images must be affine", "another function")
    std = 1 / (light - dark)
    return Preprocessing(channels, resolution, tuple((-dark * std).tolist()), tuple(std.tolist()), fit, margin, values)


@dataclass(frozen=True)
class ModelInfo:
    """All that makes a trained network of its weights, and what is known of it.

    Args:
        genotype: The architecture, as JSON.
        space: Its space as JSON, where it is none of the library's.
        classes: Names of the classes, in the order of the logits.
        channels: Channels of the first cells or block.
        cells: Depth, in the unit of ``--cells``.
        large: Whether the stem halves the resolution, for images of hundreds of pixels.
        preprocessing: From an image to what the network reads.
        task: What the outputs mean, as :meth:`fastnas.tasks.Task.describe` has it.
        own_network: Whether a function of one's own makes the network.
        metrics: What was measured: ``test_accuracy`` (a fraction) or the score of another task, ``num_params``,
            ``multiply_adds``.
    """

    genotype: dict[str, Any]
    space: dict[str, Any] | None
    classes: tuple[str, ...]
    channels: int
    cells: int
    large: bool
    preprocessing: Preprocessing
    own_network: bool = False
    task: dict[str, Any] | str = "classification"
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def score_name(self) -> str:
        """What networks of the task are compared by, as in ``metrics``."""
        return task_from_json(self.task).score_name

    @property
    def score_kind(self) -> Score:
        """What the score is, and which way it is better."""
        return SCORES[self.score_name]

    def build(
        self,
        image_channels: int | None = None,
        own: Space | None = None,
        network: BuildNetwork | None = None,
    ) -> DerivedNetwork:
        """The network, with fresh weights.

        Args:
            image_channels: Channels of its images, where they are not those that it was trained on.
            own: Its space, where that has operations of its own, which no file holds.
            network: From the genotype to the network, where it was made by such a function.

        Raises:
            ValueError: If one of the two is missing, or another one.
        """
        space = _with_operations(self.space, own)
        genotype = genotype_from_json(self.genotype, space)
        if self.own_network != (network is not None):
            rule = "be the function that made the network" if self.own_network else "be left out"
            remedy = "fastnas.load(path, network=...)." if self.own_network else "The library makes this one."
            raise invalid("model", f"network must {rule}", "none" if network is None else "one", remedy)
        if network is not None:
            return build_own_network(network, genotype, "model")
        image = self.preprocessing
        read = image_channels or image.channels
        sizes = len(self.classes), self.channels, self.cells, read, image.resolution, self.large
        built, sides = build_network(genotype, *sizes, False, space), image.resolution
        sides = (sides, sides) if isinstance(sides, int) else sides
        return fit_head(built, task_from_json(self.task), space_by_name(genotype.space, space), sides, self.large)


class Model(torch.nn.Module):
    """A trained network and what is known of it: ``model(images)`` are its logits.

    Args:
        network: In evaluation mode.
        info: Its description.
    """

    def __init__(self, network: DerivedNetwork, info: ModelInfo) -> None:
        super().__init__()
        self.network, self.info = network, info

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.info.classes

    @property
    def task(self) -> Task:
        """What the outputs mean."""
        return task_from_json(self.info.task)

    @property
    def preprocessing(self) -> Preprocessing:
        """From an image to what the network reads."""
        return self.info.preprocessing

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured after the training."""
        return self.info.metrics

    @property
    def genotype(self) -> Genotype:
        """The architecture."""
        space = None if self.info.space is None else space_from_json(self.info.space)
        return genotype_from_json(self.info.genotype, space)

    def forward(self, images: Tensor) -> Tensor:
        """From preprocessed images ``[N, C, H, W]`` to logits ``[N, classes]``, or the standardised numbers of a
        regression; ``task.predict`` makes probabilities or targets of them."""
        return self.network(images)

    @torch.no_grad()
    def predict(self, images: list[Image.Image | Path | str]) -> Tensor:
        """The probability of every class or label, ``[N, classes]``, for images or their files; of a regression the
        numbers, and of a dense task ``[N, classes, height, width]``."""
        device = next(self.parameters()).device
        return self.task.predict(self(torch.stack([self.preprocessing(image) for image in images]).to(device)))

    def save(self, folder: Path | str) -> None:
        """Write the two files of the model into ``folder``."""
        folder = Path(folder)
        tensors = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in self.network.state_dict().items()
            if not name.startswith("auxiliary.")
        }
        content = save(tensors)
        write_atomically(folder / WEIGHTS, lambda file: file.write(content))
        write_json(folder / DESCRIPTION, {**asdict(self.info), _DIGEST: _digest(content)}, checksum=True)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def describe_space(genotype: Genotype, space: Space | None) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The genotype as JSON, and its space where it is none of the library's."""
    if space is None or space.name in SPACES:
        return genotype_to_json(genotype), None
    operations = getattr(space, "operations", "darts")
    names = operations if isinstance(operations, str) else sorted(set(operations) & set(space.primitives))
    return genotype_to_json(genotype), space_to_json(space) | {"operations": names}


def _with_operations(written: dict[str, Any] | None, own: Space | None) -> Space | None:
    """The space of a description, with the operations that it names or that ``own`` has."""
    space = None if written is None else space_from_json(written)
    names = None if written is None else written.get("operations")
    if own is not None and own != space:
        rule = "space must be that of the network, " + ("one of the library's" if space is None else repr(space.name))
        raise invalid("model", rule, repr(own.name), "Leave it out." if space is None else "")
    if isinstance(names, list) and names and own is None:
        rule = f"the space {space and space.name!r} must be given, which has operations of its own: {', '.join(names)}"
        raise invalid("model", rule, "none", "fastnas.load(path, space=...), or --space FILE.py:NAME.")
    if isinstance(names, str) and isinstance(space, CellSpace):
        return replace(space, operations=names)  # type: ignore[arg-type]
    return space if own is None else own


def load(
    path: Path | str,
    device: str = "cpu",
    *,
    space: Space | str | None = None,
    network: BuildNetwork | None = None,
) -> Model:
    """A trained network with its classes, preprocessing, genotype, sizes and metrics.

    Args:
        path: A run folder, that of a retraining, or a folder that holds ``model.json``.
        device: Where to put it.
        space: Its space, or ``FILE.py:NAME``, where that has operations of its own, which no file holds.
        network: The function that made the network, where it is none of the library's.

    Raises:
        ValueError: If there is none, one of its files is broken, or its operations are missing.

    Example:
        >>> import fastnas, tempfile
        >>> edges = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"
        >>> trained = fastnas.retrain(edges, "digits", fastnas.RetrainConfig(channels=4, cells=1, epochs=1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     trained.save(folder)
        ...     network = fastnas.load(folder)
        >>> network.classes[:3]
        ('0', '1', '2')
    """
    places = [Path(path) / place for place in _PLACES]
    folder = next((place for place in places if (place / DESCRIPTION).is_file()), None)
    if folder is None:
        remedy = "Give the folder of a finished fastnas search or fastnas retrain."
        raise invalid("model", f"the folder must hold a {DESCRIPTION}", str(path), remedy)
    described: Any = read_json(folder / DESCRIPTION)
    digest = described.pop(_DIGEST, None) if isinstance(described, dict) else None
    info = validate(TypeAdapter(ModelInfo), described, "model", f"{folder / DESCRIPTION} must describe a model")
    own = as_space(space, "model") if space is not None else None
    built = info.build(own=own, network=network)
    try:
        content = (folder / WEIGHTS).read_bytes()
        if digest not in (None, _digest(content)):
            raise RuntimeError("other bytes than those that were written")
        built.load_state_dict(load_weights(content))
    except (OSError, RuntimeError, SafetensorError) as error:
        got = " ".join(str(error).split())[:200]
        raise invalid("model", f"{folder / WEIGHTS} must hold the weights of the network", got) from None
    return Model(built.eval(), info).to(device).eval()
