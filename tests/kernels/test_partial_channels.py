import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from fastnas_kernels.partial_channels import channel_shuffle, kernel, merge_channels, require_partial
from fastnas_kernels.partial_channels import derivative as partial_channels
from fastnas_kernels.partial_channels.definition import reference_merge

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch, poison):
    """Even the smallest images take several programs; what is left unwritten is NaN."""
    monkeypatch.setattr(kernel, "BLOCK_BYTES", 64)
    monkeypatch.setattr(kernel, "LOOKUP_BLOCK_M", 8)


@pytest.fixture
def _large_tiles(monkeypatch):
    monkeypatch.setattr(kernel, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(kernel, "LOOKUP_BLOCK_M", 512)


def images(channels, k, size=(2, 2), memory_format=torch.contiguous_format, batch=2):
    shapes = [(batch, width, *size) for width in (channels // k, channels - channels // k)]
    return [
        torch.randn(shape, dtype=torch.float64).to(DEVICE).contiguous(memory_format=memory_format) for shape in shapes
    ]


def numbered(channels):
    return torch.arange(float(channels)).view(1, channels, 1, 1)


def test_eight_channels_in_four_groups_come_out_in_the_published_order():
    assert channel_shuffle(numbered(8), 4).flatten().tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


@pytest.mark.parametrize(("channels", "groups"), [(8, 4), (12, 3), (6, 1), (6, 6)])
def test_a_shuffle_with_the_complementary_groups_undoes_it(channels, groups):
    x = torch.randn(2, channels, 3, 3)
    assert torch.equal(channel_shuffle(channel_shuffle(x, groups), channels // groups), x)


def test_channels_that_pass_by_appear_unchanged():
    mixed, bypass = -1 - numbered(2), numbered(6)
    y = merge_channels(mixed, bypass, 4).flatten().tolist()
    assert sorted(v for v in y if v >= 0) == bypass.flatten().tolist()
    assert y == [-1, 0, 2, 4, -2, 1, 3, 5]  # of -1, -2, 0, ..., 5: every second one, then the others


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("size", [(7, 7), (1, 1)], ids=str)
@pytest.mark.parametrize(("channels", "k"), [(4, 4), (6, 2), (6, 3), (5, 1), (16, 8), (256, 4)])
@pytest.mark.usefixtures("_large_tiles")
def test_a_permutation_is_applied_exactly_and_undone_by_the_backward_pass(channels, k, size, memory_format, backend):
    mixed, bypass = (x.requires_grad_() for x in images(channels, k, size, memory_format, batch=1))
    for order in (None, torch.randperm(channels).to(DEVICE)):
        y = merge_channels(mixed, bypass, k, order)
        assert torch.equal(y, reference_merge(mixed, bypass, k, order))
        dmixed, dbypass = torch.autograd.grad(y, (mixed, bypass), y.detach())
        assert torch.equal(dmixed, mixed)
        assert torch.equal(dbypass, bypass)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)], ids=str)
def test_derivatives_are_exact_to_second_order_whatever_is_asked_for(needs, ordered, backend):
    inputs = [x.requires_grad_(need) for x, need in zip(images(8, 4, (1, 2)), needs, strict=True)]
    order = torch.randperm(8).to(DEVICE) if ordered else None

    def squares(mixed, bypass):  # of a linear function alone, the second derivative is zero
        return merge_channels(mixed, bypass, 4, order) ** 2

    fast = backend == "triton"
    assert gradcheck(squares, inputs, check_forward_ad=True, fast_mode=fast)
    assert gradgradcheck(squares, inputs, check_fwd_over_rev=True, fast_mode=fast)


@pytest.mark.usefixtures("_large_tiles")
def test_inputs_of_any_strides_and_gradients_of_stride_zero_are_served(backend):
    mixed, bypass = images(8, 4, (4, 6))
    mixed, bypass = mixed[:, :, ::2, ::3].requires_grad_(), bypass.transpose(2, 3)[:, :, ::3, ::2].requires_grad_()
    y = merge_channels(mixed, bypass, 4)
    assert torch.equal(y, reference_merge(mixed, bypass, 4, None))
    assert all((dx == 1).all() for dx in torch.autograd.grad(y.sum(), (mixed, bypass)))


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_the_memory_format_is_kept(memory_format, backend):
    mixed, bypass = images(8, 4, memory_format=memory_format)
    assert merge_channels(mixed, bypass, 4).is_contiguous(memory_format=memory_format)


def test_a_compiled_function_has_the_gradients_of_the_plain_one(backend):
    torch.compiler.reset()
    inputs = [x.requires_grad_() for x in images(8, 4)]

    def loss(mixed, bypass):
        return merge_channels(mixed, bypass, 4).pow(3).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, *(torch.autograd.grad(f(*inputs), inputs) for f in (compiled, loss))))


def test_the_operators_keep_their_contract_for_any_strides(monkeypatch):
    monkeypatch.setenv("FASTNAS_BACKEND", "triton")
    mixed, bypass = images(8, 4, memory_format=torch.channels_last)
    opcheck(partial_channels._merge_op, (mixed, bypass.contiguous(), 4, None))
    expanded = torch.ones((), dtype=torch.float64, device=DEVICE).expand(2, 8, 2, 2)
    opcheck(partial_channels._split_op, (expanded, 4, torch.arange(8, device=DEVICE).flip(0)))


def test_what_does_not_fit_is_named_with_its_rule_and_value():
    mixed, bypass = images(8, 4)
    with pytest.raises(ValueError, match=r"merge_channels: bypass must have shape \[2, 2, 2, 2\] .*got \[2, 6, 2, 2\]"):
        merge_channels(mixed, bypass, 2)
    with pytest.raises(ValueError, match="merge_channels: k must be at least 1, got 0"):
        merge_channels(mixed, bypass, 0)
    with pytest.raises(ValueError, match=r"order must have shape \[8\] \(one index for each channel\), got \[7\]"):
        merge_channels(mixed, bypass, 4, torch.arange(7, device=DEVICE))
    with pytest.raises(ValueError, match=r"order must be int64, got torch\.float32"):
        merge_channels(mixed, bypass, 4, torch.zeros(8, device=DEVICE))
    with pytest.raises(ValueError, match="order must be a permutation of the channels, got"):
        merge_channels(mixed, bypass, 4, torch.zeros(8, dtype=torch.int64))


def test_channels_that_cannot_be_divided_are_refused_with_a_remedy():
    with pytest.raises(ValueError, match="groups must divide the 6 channels, got 4"):
        channel_shuffle(numbered(6), 4)
    with pytest.raises(ValueError, match="groups must divide the 6 channels, got 0"):
        channel_shuffle(numbered(6), 0)
    with pytest.raises(
        ValueError, match=r"even number \(k = 4\), got 12 channels\. Choose channels as a multiple of 8"
    ):
        require_partial("cell", 12, 4, even=True)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        require_partial("cell", 12, 0, even=False)
