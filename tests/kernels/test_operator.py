import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck

from fastnas_kernels.operators import operator


@operator("test_of_operator")
def _scaled(x: Tensor, factor: float) -> Tensor:
    assert not x.is_meta, "meta tensors have a form of their own"
    return factor * x


@torch.library.register_fake("fastnas::test_of_operator")
def _(x: Tensor, factor: float) -> Tensor:
    return torch.empty_like(x)


def test_an_operator_computes_what_its_function_does():
    assert torch.equal(_scaled(torch.tensor([1.0, 2.0]), 3.0), torch.tensor([3.0, 6.0]))


def test_tracers_see_an_operator_from_the_outside():
    graph = make_fx(lambda x: _scaled(x, 2.0) + 1)(torch.ones(3)).graph
    names = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert names == ["fastnas.test_of_operator.default", "aten.add.Tensor"]


def test_an_operator_has_a_schema_and_a_form_for_meta_tensors():
    opcheck(_scaled, (torch.ones(2, 3), 2.0), test_utils=("test_schema", "test_faketensor"))
    assert _scaled(torch.ones(2, 3, device="meta"), 2.0).shape == (2, 3)
