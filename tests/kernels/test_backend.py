import os
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from triton.runtime import JITFunction
from triton.runtime.interpreter import InterpretedFunction

from fastnas_kernels import backend
from fastnas_kernels.backend import backend_for, on_device_of
from fastnas_kernels.gumbel import gumbel_softmax
from fastnas_kernels.gumbel import kernel as gumbel
from fastnas_kernels.mixed_op import operators
from fastnas_kernels.mixed_op.cell import mixed_cell
from fastnas_kernels.mixed_op.plan import Candidate, CellPlan, EdgePlan
from fastnas_kernels.mixture import kernel as mixture
from fastnas_kernels.mixture import mixed_sum
from fastnas_kernels.partial_channels import kernel as partial_channels
from fastnas_kernels.partial_channels import merge_channels

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize("unset", [True, False])
def test_each_device_has_a_backend_by_default(monkeypatch, unset):
    if unset:
        monkeypatch.delenv("FASTNAS_BACKEND", raising=False)
    else:
        monkeypatch.setenv("FASTNAS_BACKEND", "")
    assert backend_for(CUDA) == "triton"
    assert backend_for(CPU) == "cpu"
    assert backend_for(torch.device("meta")) == "reference"


def test_the_variable_is_read_at_every_call_and_forces_its_backend(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for name in ("reference", "triton", "reference"):
        monkeypatch.setenv("FASTNAS_BACKEND", name)
        assert backend_for(CPU) == backend_for(CUDA) == name


def test_triton_serves_tensors_of_the_cpu_only_in_its_interpreter(monkeypatch):
    monkeypatch.setenv("FASTNAS_BACKEND", "triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert backend_for(CUDA) == "triton"
    with pytest.raises(RuntimeError, match=r"tensors must be on CUDA when FASTNAS_BACKEND=triton, got cpu\. Move them"):
        backend_for(CPU)


def test_a_missing_triton_is_an_error_and_no_fallback(monkeypatch):
    monkeypatch.delenv("FASTNAS_BACKEND", raising=False)
    monkeypatch.setattr(backend, "_TRITON_IS_INSTALLED", False)
    with pytest.raises(RuntimeError, match=r"triton must be installed, got none\. Install it, or set .*reference"):
        backend_for(CUDA)
    assert backend_for(CPU) == "cpu"


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [
        ("cpu", CUDA, r"tensors must be on the CPU when FASTNAS_BACKEND=cpu, got cuda:0\. Move them"),
        ("cuda", CPU, r"FASTNAS_BACKEND must be triton, cpu or reference, got 'cuda'\. Set it to"),
    ],
)
def test_what_cannot_serve_is_refused_with_a_remedy(monkeypatch, name, device, message):
    monkeypatch.setenv("FASTNAS_BACKEND", name)
    with pytest.raises(RuntimeError, match=message):
        backend_for(device)


@contextmanager
def recorded(log, device):
    log.append(("enter", device))
    yield
    log.append(("leave", device))


def test_the_gpu_of_a_tensor_is_the_current_one_while_kernels_are_launched(monkeypatch):
    log = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: recorded(log, device))
    second = torch.device("cuda", 1)
    with on_device_of(SimpleNamespace(is_cuda=True, device=second)):
        log.append("launch")
    assert log == [("enter", second), "launch", ("leave", second)]


def test_a_tensor_that_is_on_no_gpu_changes_no_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda device: pytest.fail("there is no GPU to choose"))
    with on_device_of(torch.ones(1)):
        pass


def _cell(alpha):
    plan = CellPlan(4, 1, 1, (EdgePlan(0, 1, (Candidate("skip"), Candidate("depthwise", 3))),))
    weights = [torch.ones(shape) for shapes in plan.weight_shapes.values() for shape in shapes]
    return mixed_cell([torch.ones(1, 4, 3, 3)], weights, alpha[0], None, plan)[0]


USES = {
    "cell": _cell,
    "sum": lambda alpha: mixed_sum([torch.ones(5), torch.ones(5)], alpha[0]),
    "copies": lambda alpha: mixed_sum([alpha[0], alpha[0]], torch.ones(2)),
    "merge": lambda alpha: merge_channels(alpha.view(1, 2, 1, 1), torch.ones(1, 2, 1, 1), 2),
    "ordered merge": lambda alpha: merge_channels(
        alpha.view(1, 2, 1, 1), torch.ones(1, 2, 1, 1), 2, torch.arange(4).flip(0)
    ),
    "gumbel": lambda alpha: gumbel_softmax(alpha, 0).mix,
}


@pytest.mark.parametrize("use", USES)
def test_every_kernel_is_launched_on_the_gpu_of_its_tensors(monkeypatch, use):
    monkeypatch.setenv("FASTNAS_BACKEND", "triton")
    depth, launches = [], []

    @contextmanager
    def watched(tensor):
        depth.append(tensor)
        yield
        depth.pop()

    for module in (operators, mixture, partial_channels, gumbel):
        monkeypatch.setattr(module, "on_device_of", watched)
    kind = InterpretedFunction if os.environ.get("TRITON_INTERPRET") == "1" else JITFunction
    launch = kind.__getitem__

    def counted(kernel, grid):
        launches.append(len(depth))
        return launch(kernel, grid)

    monkeypatch.setattr(kind, "__getitem__", counted)
    alpha = torch.ones(1, 2, requires_grad=True)
    y = USES[use](alpha)
    forward = len(launches)
    torch.autograd.grad(y.sum(), alpha)
    assert forward >= 1
    assert launches == [1] * len(launches)
