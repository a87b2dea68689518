"""Networks for other programs: ONNX, ``torch.export`` and TorchScript, checked against what they were made of."""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fastnas.errors import invalid
from fastnas.files import write_atomically
from fastnas.networks.model import Model, Preprocessing
from fastnas.tasks import Dense, MultiLabel, Regression, Task

Format = Literal["onnx", "torch-export", "torchscript"]
TOLERANCE = 1e-4  # of logits, absolute and relative: float32 in another order of operations
ENDINGS = {"onnx": ".onnx", "torch-export": ".pt2", "torchscript": ".pt"}


class WithPreprocessing(nn.Module):
    """A network that reads pixels in [0, 255], or numbers in the unit of the arrays that it was trained on. Of a
    regression it gives numbers in the unit of the targets.

    Args:
        network: Reads normalised images.
        preprocessing: Whose mean and standard deviation are built in; size and crop are not.
        task: Whose mean and standard deviation are, where it is a regression; without it outputs stay as they are.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, task: Task | None = None) -> None:
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.std: Tensor
        low, high = preprocessing.unit
        size = preprocessing.resolution
        shape = [-1, *[1] * (2 if isinstance(size, int) else len(size))]
        self.register_buffer("mean", low + (high - low) * torch.tensor(preprocessing.mean).view(shape))
        self.register_buffer("std", (high - low) * torch.tensor(preprocessing.std).view(shape))
        self.unit = _InUnitOfTargets(task) if isinstance(task, Regression) else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.unit(self.network((images - self.mean) / self.std))


class _InUnitOfTargets(nn.Module):
    def __init__(self, task: Regression) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(task.mean))
        self.register_buffer("std", torch.tensor(task.std))

    def forward(self, outputs: Tensor) -> Tensor:
        return outputs * self.std + self.mean


def export(
    model: Model, path: Path, to: Format = "onnx", *, dynamic_batch: bool = False, with_preprocessing: bool = False
) -> float:
    """Write ``model`` to ``path`` and compare what was written with it on random input.

    Args:
        model: What to write.
        path: The file.
        to: Its format.
        dynamic_batch: Whether it takes any number of images; otherwise one.
        with_preprocessing: Whether it takes pixels in [0, 255], or numbers in the unit of the arrays that it was
            trained on, instead of normalised ones, and of a regression gives numbers in the unit of the targets
            instead of standardised ones.

    Returns:
        The largest absolute difference of logits, or of standardised numbers.

    Raises:
        ValueError: If they differ by more than :data:`TOLERANCE`, or a package is missing.
    """
    image, task = model.preprocessing, model.task
    network = WithPreprocessing(model.network, image, task) if with_preprocessing else model.network
    network = network.cpu().eval()
    number = 2 if dynamic_batch else 1
    size = [image.resolution] * 2 if isinstance(image.resolution, int) else image.resolution
    example = torch.rand(number, image.channels, *size)
    low, high = image.unit
    example = low + (high - low) * example if with_preprocessing else example
    with tempfile.TemporaryDirectory() as place, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made, output = Path(place) / path.name, "values" if task.name == "regression" else "logits"
        run = _WRITERS[to](network, example, made, dynamic_batch, output)
        tried = torch.cat([example, example.flip(0), example]) if dynamic_batch else example
        difference = _compare(path, run(tried), network(tried), task if with_preprocessing else None)
        write_atomically(path, lambda file: file.write(made.read_bytes()))
    return difference


def _compare(path: Path, got: Tensor, expected: Tensor, task: Task | None) -> float:
    """The largest difference of outputs, of a regression in the unit of its deviation; raises if it is large."""
    moments = (task.mean, task.std) if isinstance(task, Regression) else (0.0, 1.0)
    mean, std = map(torch.tensor, moments)
    rounding = 4 * torch.finfo(torch.float32).eps * expected.abs()  # of targets that lie far from zero
    difference = float(((got - expected).abs() / std).max())
    if not ((got - expected).abs() <= TOLERANCE * (std + (expected - mean).abs()) + rounding).all():
        rule = f"{path} must give the same outputs within {TOLERANCE}"
        raise invalid("export", rule, f"a difference of {difference}")
    return difference


def describe_outputs(model: Model, with_preprocessing: bool = False) -> str:
    """What comes out of the file that :func:`export` writes, and how to read it, in one line."""
    task, names = model.task, model.classes
    some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    if isinstance(task, MultiLabel):
        return f"a logit for each label ({some}); its sigmoid is the probability, given from {task.threshold:g} on"
    if isinstance(task, Dense):
        return f"logits of the classes ({some}) for each place; their softmax over axis 1 are the probabilities"
    if not isinstance(task, Regression):
        return f"logits of the classes ({some}); their softmax are the probabilities"
    if with_preprocessing:
        return f"numbers in the unit of the targets ({some})"
    mean, std = (", ".join(f"{x:.9g}" for x in numbers) for numbers in (task.mean, task.std))
    return f"standardised numbers ({some}); targets are number * [{std}] + [{mean}], or use --with-preprocessing"


Run = Callable[[Tensor], Tensor]


def _write_onnx(network: nn.Module, example: Tensor, path: Path, dynamic_batch: bool, output: str) -> Run:
    try:
        import onnxruntime  # noqa: PLC0415  (an extra)
    except ImportError:
        raise invalid(
            "export", "onnxruntime must be installed", "nothing", "pip install onnx onnxruntime onnxscript"
        ) from None
    shapes = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
    torch.onnx.export(
        network,
        (example,),
        path,
        input_names=["images"],
        output_names=[output],
        dynamic_shapes=shapes,
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(np.asarray(session.run([output], {"images": x.numpy()})[0]))


def _write_exported(network: nn.Module, example: Tensor, path: Path, dynamic_batch: bool, output: str) -> Run:
    shapes = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
    torch.export.save(torch.export.export(network, (example,), dynamic_shapes=shapes), path)
    return torch.export.load(path).module()


def _write_scripted(network: nn.Module, example: Tensor, path: Path, dynamic_batch: bool, output: str) -> Run:
    try:
        scripted = torch.jit.script(network)
    except RuntimeError as error:  # what its compiler does not know, such as the noise of S4
        got = " ".join(str(error).split())[:100]
        remedy = "Use --to torch-export or onnx."
        raise invalid("export", "operations must be such as TorchScript compiles", got, remedy) from None
    scripted.save(str(path))
    return torch.jit.load(str(path))


_WRITERS: dict[str, Callable[[nn.Module, Tensor, Path, bool, str], Run]] = {
    "onnx": _write_onnx,
    "torch-export": _write_exported,
    "torchscript": _write_scripted,
}
