"""What a retraining returns."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from fastnas.data import ImageData
from fastnas.networks.model import Model, ModelInfo, describe_space, find_preprocessing
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.space import Space
from fastnas.tasks import Score
from fastnas.training.config import RetrainConfig
from fastnas.training.start import Start


@dataclass(frozen=True)
class RetrainResult:
    """A trained derived network.

    Args:
        genotype: Its architecture.
        num_params: Trained scalars, without an auxiliary head.
        multiply_adds: Of one image's forward pass.
        score: What the task compares networks by, on the test images after the last epoch.
        seconds: Training and evaluation, without what came before a resume's checkpoint being repeated.
        network: The network, in evaluation mode.
        info: What describes it beside its weights: sizes, classes, preprocessing, metrics.
        confusion: Test images of each class (rows) that were taken for each class (columns); ``None`` for more than
            100 classes.
        start: Where its weights came from, if they were not random, and the score before any training.

    Example:
        >>> import fastnas
        >>> edges = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"
        >>> result = fastnas.retrain(edges, "digits", fastnas.RetrainConfig(channels=4, cells=1, epochs=1))
        >>> result.num_params > 0, result.genotype.space
        (True, 'nasbench201')
    """

    genotype: Genotype
    num_params: int
    multiply_adds: int
    score: float
    seconds: float
    network: nn.Module
    info: ModelInfo
    confusion: list[list[int]] | None = None
    start: Start | None = None

    @property
    def score_kind(self) -> Score:
        """What the score is, and which way it is better."""
        return self.info.score_kind

    @property
    def test_accuracy(self) -> float:
        """The fraction of the test images classified rightly.

        Raises:
            AttributeError: For another task, whose number is :attr:`score`.
        """
        if self.info.score_name != "accuracy":
            name = self.info.task if isinstance(self.info.task, str) else self.info.task["name"]
            raise AttributeError(f"a {name} has no accuracy: its {self.info.score_name} is .score")
        return self.score

    @property
    def test_balanced_accuracy(self) -> float | None:
        """The mean of that fraction over the classes; ``None`` for another task, or where an earlier version
        trained."""
        return self.info.metrics.get("test_balanced_accuracy")

    def save(self, folder: Path | str) -> None:
        """Write the trained network to ``folder``, from where :func:`fastnas.load` reads it."""
        Model(self.network, self.info).save(folder)  # type: ignore[arg-type]


def describe_network(
    genotype: Genotype,
    data: ImageData,
    config: RetrainConfig,
    own: Space | None,
    is_own: bool,
    metrics: dict[str, float],
) -> ModelInfo:
    """All that makes the network that :func:`fastnas.retrain` trained of its weights."""
    image = find_preprocessing(
        data.normalise, data.channels, data.resolution, data.fit, data.large and data.fit == "crop", data.values
    )
    written, space = describe_space(genotype, own)
    sizes = (config.channels, config.cells, data.large)
    described = tuple(map(str, data.classes)), *sizes, image, is_own
    return ModelInfo(written, space, *described, data.task.describe(), metrics)
