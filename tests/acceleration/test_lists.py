"""Cells in the shape of NAS-Bench-201's code (Dong and Yang, 2020, arXiv:2001.00326): edges are lists of candidates,
candidates are dense convolutions, some with biases, and pools without normalisation, and methods have other names."""

import copy

import pytest
import torch
from torch import nn

from fastnas import accelerate, restore
from fastnas.acceleration.stand_in import find_stand_ins

C, NODES = 4, 2
ROWS = (None, [0.0, 1.0, 0.0, 0.0, 0.0], [1e-4, 0.0, 0.5, 0.5, -1e-4])


class Zero(nn.Module):
    def forward(self, x):
        return x.mul(0.0)


def convolve(kernel, affine=False):
    body = nn.Conv2d(C, C, kernel, padding=kernel // 2, bias=not affine)
    return nn.Sequential(nn.ReLU(), body, nn.BatchNorm2d(C, affine=affine))


def candidates(affine=False):
    pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    return nn.ModuleList([Zero(), nn.Identity(), convolve(1, affine), convolve(3, affine), pool])


class ListCell(nn.Module):
    def __init__(self, affine=False):
        super().__init__()
        keys = [f"{node}<-{source}" for node in range(1, NODES + 1) for source in range(node)]
        self.edges = nn.ModuleDict({key: candidates(affine) for key in keys})
        self.rows = {key: row for row, key in enumerate(keys)}
        self.calls, self.tau = 0, 1.0

    def mixed(self, x, row, paths):
        return sum(path(x) * w for path, w in zip(paths, row, strict=True))

    def picked(self, x, row, paths, k):
        return sum(row[i] * path(x) if i == k else row[i] for i, path in enumerate(paths))

    def nodes(self, x, term):
        states = [x]
        for node in range(1, NODES + 1):
            keys = [f"{node}<-{source}" for source in range(node)]
            states.append(sum(term(s, self.rows[k], self.edges[k]) for s, k in zip(list(states), keys, strict=True)))
        return states[-1]

    def forward(self, x, table):
        return self.nodes(x, lambda s, r, paths: self.mixed(s, table[r], paths))

    def forward_chosen(self, x, table, index):
        return self.nodes(x, lambda s, r, paths: self.picked(s, table[r], paths, index[r].item()))


class OnlyChosen(ListCell):
    def picked(self, x, row, paths, k):
        return paths[k](x) * row[k]


def seen(module, method, x, table, *index, gradients=True):
    """Everything that training sees of one evaluation from one seed."""
    torch.manual_seed(3)
    leaves = [x.clone().requires_grad_(), table.clone().requires_grad_()]
    handed = [leaf.clone() for leaf in leaves]
    with torch.set_grad_enabled(gradients):
        y = getattr(module, method)(*handed, *index)
    found = [y.detach(), *(h.detach() for h in handed), *(b.clone() for b in module.buffers())]
    if gradients:
        ramp = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
        found += torch.autograd.grad((ramp * y * y).sum(), [*leaves, *module.parameters()], allow_unused=True)
    return found, torch.get_rng_state(), (module.calls, module.tau)


def assert_equal(own, fast):
    largest = max(t.abs().max().item() for t in own[0] if t is not None)
    for mine, theirs in zip(fast[0], own[0], strict=True):
        assert (mine is None) == (theirs is None)
        if theirs is not None:
            assert (mine - theirs).abs().max() <= 1e-9 * theirs.abs().max() + 1e-13 * largest
    assert torch.equal(own[1], fast[1])
    assert own[2] == fast[2]


def compared(own, fast):
    """``fast`` against ``own`` in both modes, with dense, sparse and sampled rows."""
    generator = torch.Generator().manual_seed(0)
    for turn, row in enumerate(ROWS):
        x = torch.randn(2, C, 6, 6, dtype=torch.float64, generator=generator)
        table = torch.rand(3, 5, dtype=torch.float64, generator=generator)
        table = table if row is None else torch.tensor(row, dtype=torch.float64).expand(3, 5)
        index = torch.tensor([[2 + turn], [1], [4 - turn]])
        for training in (True, False):
            for net in (own, fast):
                net.train(training)
            for method, given in (("forward", ()), ("forward_chosen", (index,))):
                assert_equal(seen(own, method, x, table, *given), seen(fast, method, x, table, *given))
        both = [seen(net.train(), "forward", x, table, gradients=False) for net in (own, fast)]
        assert_equal(*both)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("kind", [ListCell, OnlyChosen])
def test_cells_of_lists_are_replaced_whole_in_all_of_their_methods(kind, affine):
    torch.manual_seed(0)
    own = kind(affine).double()
    fast = copy.deepcopy(own)
    report = accelerate(fast)
    assert not report.left, report
    (entry,) = report.replaced
    assert entry.level == "cell"
    assert "convolutions that leave a state are one; in forward and forward_chosen" in entry.what
    compared(own, fast)
    again = copy.deepcopy(fast)
    assert [s.module for s in find_stand_ins(again)] == [again, again]
    restore(fast)
    assert not find_stand_ins(fast)
    assert set(fast.__dict__) == set(own.__dict__)


def test_second_derivatives_of_a_cell_of_lists_are_equal():
    torch.manual_seed(0)
    own = ListCell(affine=True).double()
    fast, found = copy.deepcopy(own), []
    accelerate(fast)
    x, table = torch.randn(2, C, 5, 5, dtype=torch.float64), torch.rand(3, 5, dtype=torch.float64, requires_grad=True)
    for net in (own, fast):
        first = torch.autograd.grad((net(x, table) ** 3).sum(), [*net.parameters()], create_graph=True)
        found.append(torch.autograd.grad(sum((g * g).sum() for g in first), table)[0])
    assert (found[0] - found[1]).abs().max() <= 1e-10 * found[0].abs().max()


def test_a_number_that_names_no_candidate_is_left_to_the_cell_itself():
    torch.manual_seed(0)
    own = OnlyChosen().double()
    fast = copy.deepcopy(own)
    accelerate(fast)
    x, table = torch.randn(2, C, 5, 5, dtype=torch.float64), torch.rand(3, 5, dtype=torch.float64)
    last = torch.tensor([[2], [-1], [3]])
    assert torch.equal(own.forward_chosen(x, table, last), fast.forward_chosen(x, table, last))
    with pytest.raises(IndexError, match="out of range"):
        fast.forward_chosen(x, table, torch.tensor([[2], [7], [3]]))


def test_what_one_convolution_returns_may_be_changed_in_place():
    torch.manual_seed(0)
    own = OnlyChosen().double()
    fast, found = copy.deepcopy(own), []
    accelerate(fast)
    x, rows = torch.randn(2, C, 5, 5, dtype=torch.float64), torch.rand(3, 5, dtype=torch.float64)
    for net in (own, fast):
        table = rows.clone().requires_grad_()
        y = net.forward_chosen(x, table, torch.tensor([[2], [0], [2]])).mul_(2)
        found.append(torch.autograd.grad((y**3).sum(), table)[0])
    assert (found[0] - found[1]).abs().max() <= 1e-10 * found[0].abs().max()


@pytest.mark.parametrize("stride", [1, 2])
def test_biases_before_normalisations_and_pools_without_any_run_on_the_engine(make_block, stride):
    """As in the supernets of DARTS, GDAS and SETN in NAS-Bench-201's code."""
    block = make_block(stride=stride)
    for part in list(block.links.modules()):
        for _, layer in part.named_children():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
                layer.bias = nn.Parameter(torch.randn(layer.out_channels).double())
    for number, link in enumerate(block.links):
        link.paths[1] = link.paths[1].pool
        link.paths[2] = nn.AvgPool2d(3, 1 if number == 4 else stride, 1, count_include_pad=False)
    twin = copy.deepcopy(block)
    (entry,) = accelerate(twin).replaced
    assert entry.level == "cell"
    assert "runs itself" not in entry.what
    x, table = torch.randn(2, 8, 6, 6, dtype=torch.float64), torch.rand(5, 8, dtype=torch.float64)
    for training in (True, False):
        for gradients in (True, False):
            seen = []
            for module in (block.train(training), twin.train(training)):
                variables = [x.clone().requires_grad_(), table.clone().requires_grad_(), *module.parameters()]
                with torch.set_grad_enabled(gradients):
                    y = module(variables[0], variables[0], variables[1])
                found = torch.autograd.grad((y**3).sum(), variables, allow_unused=True) if gradients else ()
                seen.append([y.detach(), *found, *(b.clone() for b in module.buffers())])
            largest = max(a.abs().max() for a in seen[0] if a is not None)
            for a, b in zip(*seen, strict=True):
                assert (a is None) == (b is None)
                assert a is None or (a - b).abs().max() <= 1e-9 * a.abs().max() + 1e-14 * largest


CELLS = {}


def add(method):
    """A cell that differs from what the drop-in believes in the function of that name."""

    def named(function):
        CELLS[function.__name__] = type(function.__name__, (ListCell,), {method: function})
        return function

    return named


@add("mixed")
def skips_zeros(self, x, row, paths):
    return sum(path(x) * w for path, w in zip(paths, row, strict=True) if w != 0)


@add("mixed")
def skips_what_is_small(self, x, row, paths):
    return sum(path(x) * w for path, w in zip(paths, row, strict=True) if abs(w) > 1e-3)


@add("mixed")
def adds_what_it_skips(self, x, row, paths):
    return sum(path(x) * w if w != 0 else w for path, w in zip(paths, row, strict=True))


@add("mixed")
def renormalises(self, x, row, paths):
    return sum(path(x) * w for path, w in zip(paths, row / row.sum(), strict=True))


@add("mixed")
def detaches_a_convolution(self, x, row, paths):
    return sum(
        (path(x) if k != 2 else path(x).detach()) * w for k, (path, w) in enumerate(zip(paths, row, strict=True))
    )


@add("mixed")
def counts_calls(self, x, row, paths):
    self.calls += 1
    return ListCell.mixed(self, x, row, paths)


@add("mixed")
def scales_by_an_attribute(self, x, row, paths):
    return ListCell.mixed(self, x, row * self.tau, paths)


@add("mixed")
def drops_at_random(self, x, row, paths):
    return nn.functional.dropout(ListCell.mixed(self, x, row, paths), 1e-9, self.training)


@add("mixed")
def rectifies_its_states(self, x, row, paths):
    return ListCell.mixed(self, x.relu(), row, paths)


@add("mixed")
def pools_twice(self, x, row, paths):
    return ListCell.mixed(self, x, row, paths) + paths[4](paths[4](x)) * row[4]


@add("picked")
def runs_the_next(self, x, row, paths, k):
    return paths[(k + 1) % 5](x) * row[k]


@add("picked")
def detaches_what_it_adds(self, x, row, paths, k):
    return paths[k](x) * row[k] + (row.sum() - row[k]).detach()


@add("picked")
def leaves_the_last_out(self, x, row, paths, k):
    return paths[k](x) * row[k] if k < 4 else x * 0


@add("picked")
def ignores_a_zero(self, x, row, paths, k):
    return paths[k](x) * row[k] if row[k] != 0 else x * row[k]


@add("picked")
def weighs_by_the_sum(self, x, row, paths, k):
    return paths[k](x) * row.sum()


@add("picked")
def runs_the_largest_too(self, x, row, paths, k):
    return paths[k](x) * row[k] + paths[row.argmax()](x) * 1e-6


@add("picked")
def runs_all_in_front(self, x, row, paths, k):
    return sum(row[i] * path(x) for i, path in enumerate(paths) if i <= k)


@add("picked")
def clamps_its_coefficient(self, x, row, paths, k):
    return paths[k](x) * row[k].clamp(max=1e5)


@pytest.mark.filterwarnings("ignore:fastnas.accelerate. the module must be as it was found")
@pytest.mark.parametrize("name", CELLS)
def test_no_cell_of_lists_is_replaced_wrongly(name):
    torch.manual_seed(0)
    own = CELLS[name]().double()
    fast = copy.deepcopy(own)
    accelerate(fast)
    compared(own, fast)
    own.tau = fast.tau = 0.5
    compared(own, fast)
