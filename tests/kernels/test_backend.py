import pytest
import torch

from fastnas_kernels import backend
from fastnas_kernels.backend import backend_for

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize("unset", [True, False])
def test_each_device_has_a_backend_by_default(monkeypatch, unset):
    if unset:
        monkeypatch.delenv("FASTNAS_BACKEND", raising=False)
    else:
        monkeypatch.setenv("FASTNAS_BACKEND", "")
    assert backend_for(CUDA) == "triton"
    assert backend_for(CPU) == backend_for(torch.device("meta")) == "reference"


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
    assert backend_for(CPU) == "reference"


@pytest.mark.parametrize(("name", "message"), [("cpu", "CPU is not there yet"), ("cuda", "got 'cuda'. Set it to")])
def test_what_cannot_serve_is_refused_with_a_remedy(monkeypatch, name, message):
    monkeypatch.setenv("FASTNAS_BACKEND", name)
    with pytest.raises(RuntimeError, match=message):
        backend_for(CPU)
