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

Format = Literal["onnx", "torch-export", "torchscript"]
TOLERANCE = 1e-4  # of logits, absolute and relative: float32 in another order of operations
ENDINGS = {"onnx": ".onnx", "torch-export": ".pt2", "torchscript": ".pt"}


class WithPreprocessing(nn.Module):
    """A network that reads pixels in [0, 255], or numbers in the unit of the arrays that it was trained on.

    Args:
        network: Reads normalised images.
        preprocessing: Whose mean and standard deviation are built in; size and crop are not.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.std: Tensor
        low, high = preprocessing.unit
        self.register_buffer("mean", low + (high - low) * torch.tensor(preprocessing.mean)[:, None, None])
        self.register_buffer("std", (high - low) * torch.tensor(preprocessing.std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)


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
            trained on, instead of normalised ones.

    Returns:
        The largest absolute difference of logits.

    Raises:
        ValueError: If they differ by more than :data:`TOLERANCE`, or a package is missing.
    """
    network = WithPreprocessing(model.network, model.preprocessing) if with_preprocessing else model.network
    network = network.cpu().eval()
    image = model.preprocessing
    number = 2 if dynamic_batch else 1
    size = [image.resolution] * 2 if isinstance(image.resolution, int) else image.resolution
    example = torch.rand(number, image.channels, *size)
    low, high = image.unit
    example = low + (high - low) * example if with_preprocessing else example
    with tempfile.TemporaryDirectory() as place, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = Path(place) / path.name
        run = _WRITERS[to](network, example, made, dynamic_batch)
        tried = torch.cat([example, example.flip(0), example]) if dynamic_batch else example
        expected, got = network(tried), run(tried)
        difference = float((got - expected).abs().max())
        if not torch.allclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE):
            rule = f"{path} must give the same logits within {TOLERANCE}"
            raise invalid("export", rule, f"a difference of {difference}")
        write_atomically(path, lambda file: file.write(made.read_bytes()))
    return difference


Run = Callable[[Tensor], Tensor]


def _write_onnx(network: nn.Module, example: Tensor, path: Path, dynamic_batch: bool) -> Run:
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
        output_names=["logits"],
        dynamic_shapes=shapes,
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(np.asarray(session.run(["logits"], {"images": x.numpy()})[0]))


def _write_exported(network: nn.Module, example: Tensor, path: Path, dynamic_batch: bool) -> Run:
    shapes = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
    torch.export.save(torch.export.export(network, (example,), dynamic_shapes=shapes), path)
    return torch.export.load(path).module()


def _write_scripted(network: nn.Module, example: Tensor, path: Path, dynamic_batch: bool) -> Run:
    try:
        scripted = torch.jit.script(network)
    except RuntimeError as error:  # what its compiler does not know, such as the noise of S4
        got = " ".join(str(error).split())[:100]
        remedy = "Use --to torch-export or onnx."
        raise invalid("export", "operations must be such as TorchScript compiles", got, remedy) from None
    scripted.save(str(path))
    return torch.jit.load(str(path))


_WRITERS: dict[str, Callable[[nn.Module, Tensor, Path, bool], Run]] = {
    "onnx": _write_onnx,
    "torch-export": _write_exported,
    "torchscript": _write_scripted,
}
