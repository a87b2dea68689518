"""What PyTorch can do with a cell that runs in kernels: derivatives, tracing, low precision."""

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from fastnas_audit.interpreter import tf32_products
from fastnas_kernels.mixed_op import derivative
from fastnas_kernels.mixed_op.cell import mixed_cell
from fastnas_kernels.mixed_op.definition import reference_cell
from fastnas_kernels.mixed_op.launch import launcher
from fastnas_kernels.mixed_op.plan import Candidate, CellPlan, EdgePlan

AVG, SKIP, DEPTHWISE = Candidate("avg_pool"), Candidate("skip"), Candidate("depthwise", 3)
SEPARABLE = Candidate("depthwise", 3, 1, 2)
EXACT = 1e-12
"""Relative, in float64: a few hundred roundings of 1e-16 each."""


def solo(*candidates, channels=4, stride=1, k=1):
    return CellPlan(channels, 1, 1, (EdgePlan(0, 1, candidates),), stride, k)


def function_of_leaves(cell, plan, statistics=None):
    """The nodes as a function of one state, all weights, mix and (with partial channels) edge_mix."""

    def evaluate(state, *others):
        count = sum(map(len, plan.weight_shapes.values()))
        edge_mix = others[count + 1] if plan.k > 1 else None
        return cell([state], others[:count], others[count], edge_mix, plan, statistics)[0]

    return evaluate


def loss_of(cell, plan):
    evaluate = function_of_leaves(cell, plan)
    return lambda *leaves: evaluate(*leaves).pow(3).sum()


def assert_alike(mine, theirs):
    for m, t in zip(mine, theirs, strict=True):
        assert (m - t).abs().max() <= EXACT * t.abs().max().clamp_min(1e-3)


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.fixture
def small(arguments):
    plan = solo(AVG, SKIP, DEPTHWISE, stride=2, k=2)
    return plan, arguments(plan, (5, 4), batch=1).leaves


@pytest.mark.parametrize("frozen", [False, slow(True)])
def test_first_derivatives_agree_with_finite_differences(fused, small, frozen):
    plan, leaves = small
    rows = len(plan.norms), plan.mixed_channels
    statistics = torch.stack([torch.randn(rows), torch.rand(rows) + 0.5], 1).double() if frozen else None
    assert gradcheck(function_of_leaves(fused, plan, statistics), leaves, fast_mode=True)


@pytest.mark.parametrize("fused", [pytest.param("triton", marks=pytest.mark.slow), "cpu"], indirect=True)
def test_second_derivatives_agree_with_finite_differences(fused, small):
    plan, leaves = small
    assert gradgradcheck(function_of_leaves(fused, plan), leaves, fast_mode=True)


@pytest.mark.slow
def test_forward_mode_agrees_with_finite_differences(fused, small):
    plan, leaves = small
    evaluate = function_of_leaves(fused, plan)
    assert gradcheck(evaluate, leaves, fast_mode=True, check_forward_ad=True, check_backward_ad=False)


def test_tangents_may_be_missing(fused, small):
    plan, leaves = small
    tangent = torch.randn_like(leaves[0])
    results = []
    for cell in (fused, reference_cell):
        with forward_ad.dual_level():
            nodes = function_of_leaves(cell, plan)(forward_ad.make_dual(leaves[0], tangent), *leaves[1:])
            results.append(forward_ad.unpack_dual(nodes).tangent)
    assert_alike(results[:1], results[1:])


@pytest.mark.parametrize(
    "derivative",
    [
        lambda loss, leaves, v: torch.func.jvp(torch.func.grad(loss), tuple(leaves), tuple(v)),
        lambda loss, leaves, v: [
            torch.func.grad(lambda *xs: (torch.func.grad(loss)(*xs) * v[0]).sum(), argnums=1)(*leaves)
        ],
        lambda loss, leaves, v: torch.func.vjp(torch.func.grad(loss), *leaves)[1](v[0]),
        lambda loss, leaves, v: torch.func.grad(lambda *xs: torch.func.jvp(loss, xs, tuple(v))[1], argnums=(0, 1))(
            *leaves
        ),
        lambda loss, leaves, v: [
            torch.func.grad(lambda *xs: torch.func.jvp(torch.func.grad(loss), xs, tuple(v))[1].square().sum())(*leaves)
        ],
    ],
    ids=["jvp of grad", "grad of grad", "vjp of grad", "grad of jvp", "grad of jvp of grad"],
)
def test_functional_transforms_compose(fused, small, derivative):
    plan, leaves = small
    leaves = [leaf.detach() for leaf in leaves]
    tangents = [torch.randn_like(leaf) for leaf in leaves]
    assert_alike(*(derivative(loss_of(cell, plan), leaves, tangents) for cell in (fused, reference_cell)))


@pytest.mark.parametrize("position", [0, 1, -1])
def test_a_hessian_vector_product_by_dual_numbers(fused, small, position):
    """Of an argument, which is dual from the start, and of what stands behind the cell, whose tangents only the
    backward pass brings."""
    plan, leaves = small
    tangent, after = torch.randn_like(leaves[position]), torch.ones((), dtype=torch.float64)
    results = []
    for cell in (fused, reference_cell):
        for behind in (False, True):
            with forward_ad.dual_level():
                given = list(leaves)
                if not behind:
                    given[position] = forward_ad.make_dual(given[position], tangent)
                scale = forward_ad.make_dual(after, after) if behind else after
                value = (function_of_leaves(cell, plan)(*given) * scale).square().sum()
                results.append([forward_ad.unpack_dual(g).tangent for g in torch.autograd.grad(value, given)])
    assert_alike(results[0] + results[1], results[2] + results[3])


def test_a_hessian_vector_product_by_two_backward_passes(fused, small):
    plan, leaves = small
    results = []
    for cell in (fused, reference_cell):
        first = torch.autograd.grad(loss_of(cell, plan)(*leaves), leaves, create_graph=True)
        results.append(torch.autograd.grad(sum((g * g).sum() for g in first), leaves))
    assert_alike(*results)


def test_where_no_code_for_tangents_compiles_the_definition_is_differentiated(monkeypatch, small):
    monkeypatch.setenv("FASTNAS_BACKEND", "cpu")
    monkeypatch.setattr(derivative, "cpu_knows_tangents", lambda *_: False)
    plan, leaves = small
    v, results = [torch.randn_like(leaf) for leaf in leaves], []
    for cell in (mixed_cell, reference_cell):
        evaluate, loss = function_of_leaves(cell, plan), loss_of(cell, plan)
        with forward_ad.dual_level():
            dual = [forward_ad.make_dual(*pair) for pair in zip(leaves, v, strict=True)]
            along = forward_ad.unpack_dual(evaluate(*dual)).tangent
            bent = [forward_ad.unpack_dual(g).tangent for g in torch.autograd.grad(loss(*dual), dual)]
        first = torch.autograd.grad(loss(*leaves), leaves, create_graph=True)
        results.append([along, *bent, *torch.autograd.grad(first, leaves, v)])
    assert_alike(*results)


@pytest.mark.parametrize("of", ["x", "u"])
def test_a_tangent_has_gradients_of_its_own(fused, small, of):
    """For the point and for the direction, inside the level of its dual numbers."""
    plan, leaves = small
    directions = [torch.randn_like(leaf).requires_grad_() for leaf in leaves]
    results = []
    for cell in (fused, reference_cell):
        with forward_ad.dual_level():
            given = [forward_ad.make_dual(*pair) for pair in zip(leaves, directions, strict=True)]
            tangent = forward_ad.unpack_dual(function_of_leaves(cell, plan)(*given)).tangent
        results.append(torch.autograd.grad(tangent.pow(2).sum(), {"x": leaves, "u": directions}[of]))
    assert_alike(*results)


def test_third_derivatives_exist(fused, small):
    plan, leaves = small
    v = [torch.randn_like(leaf) for leaf in leaves]
    results = []
    for cell in (fused, reference_cell):
        first = torch.autograd.grad(loss_of(cell, plan)(*leaves), leaves, create_graph=True)
        along = sum((g * t).sum() for g, t in zip(first, v, strict=True))
        second = torch.autograd.grad(along, leaves, create_graph=True)
        results.append(torch.autograd.grad(sum((g * g).sum() for g in second), leaves))
    assert_alike(*results)


def test_the_graph_of_a_gradient_at_dual_numbers_can_be_kept(fused, small):
    plan, leaves = small
    v, results = torch.randn_like(leaves[0]), []
    for cell in (fused, reference_cell):
        with forward_ad.dual_level():
            given = [forward_ad.make_dual(leaves[0], v), *leaves[1:]]
            first = torch.autograd.grad(loss_of(cell, plan)(*given), given, create_graph=True)
            second = torch.autograd.grad(sum((g * g).sum() for g in first), given)
            results.append([x for pair in map(forward_ad.unpack_dual, second) for x in pair])
    assert_alike(*results)


@pytest.mark.parametrize("needed", [0, 1, -1])
def test_a_gradient_that_is_asked_for_alone_can_be_differentiated(fused, small, needed):
    plan, leaves = small
    results = []
    for cell in (fused, reference_cell):
        (first,) = torch.autograd.grad(loss_of(cell, plan)(*leaves), [leaves[needed]], create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), leaves))
    assert_alike(*results)


LAYOUTS = {
    "contiguous": lambda x: x,
    "every second": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "expanded": lambda x: x[:1].expand(x.shape),
}


@pytest.mark.parametrize("layout", [slow("contiguous"), slow("every second"), "expanded"])
@pytest.mark.parametrize("backend", ["triton", "cpu"])
def test_both_operators_keep_their_contract(monkeypatch, use_tiles, arguments, layout, backend):
    monkeypatch.setenv("FASTNAS_BACKEND", backend)
    use_tiles(pixels=64)
    plan = solo(AVG, DEPTHWISE, stride=2, k=2)
    given, change = arguments(plan, 3), LAYOUTS[layout]
    state = change(given.states[0].detach().permute(0, 2, 3, 1)[None])
    weights = [change(w.detach()) for w in given.weights]
    mix, edge_mix = change(given.mix.detach()), change(given.edge_mix.detach())
    forward, backward = torch.ops.fastnas.mixed_cell.default, torch.ops.fastnas.mixed_cell_backward.default
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    inputs = (state, weights, mix, edge_mix, None, plan.text)
    torch.library.opcheck(forward, inputs, test_utils=tests)
    nodes, stats, packed, _ = forward(*inputs)
    dnodes = change(torch.randn_like(nodes))
    for needs in ([True] * 4, [False, False, True, True]):
        arguments_of_backward = (dnodes, state, nodes, packed, mix, edge_mix, stats, False, needs, plan.text)
        torch.library.opcheck(backward, arguments_of_backward, test_utils=tests)
    frozen = torch.rand(len(plan.norms), 2, plan.mixed_channels, dtype=torch.float64)
    torch.library.opcheck(forward, (state, weights, mix, edge_mix, frozen, plan.text), test_utils=tests)


@pytest.mark.parametrize(
    ("layout", "backend"),
    [
        *((layout, "cpu") for layout in LAYOUTS),
        pytest.param("contiguous", "triton", marks=pytest.mark.slow),
        ("expanded", "triton"),
    ],
)
def test_the_operators_on_numbers_with_tangents_keep_their_contract(monkeypatch, use_tiles, arguments, layout, backend):
    monkeypatch.setenv("FASTNAS_BACKEND", backend)
    use_tiles(pixels=64)
    plan = solo(AVG, DEPTHWISE, stride=2, k=2)
    given, change = arguments(plan, 3), LAYOUTS[layout]

    def pair(x):
        return [change(x.detach()), change(torch.randn_like(x))]

    inputs, mix, edge_mix = (
        pair(x) for x in (given.states[0].detach().permute(0, 2, 3, 1)[None], given.mix, given.edge_mix)
    )
    weights, tangents = zip(*map(pair, given.weights), strict=True)
    forward, backward = torch.ops.fastnas.mixed_cell_dual.default, torch.ops.fastnas.mixed_cell_dual_backward.default
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    for along in (list(tangents), []):
        arguments_of_forward = (inputs, list(weights), along, mix, edge_mix, None, plan.text)
        torch.library.opcheck(forward, arguments_of_forward, test_utils=tests)
    nodes, tangent, stats, packed, _ = forward(*arguments_of_forward)
    dnodes = pair(nodes)
    for needs in ([True] * 4, [False, False, True, True]):
        given = (dnodes, inputs, [nodes, tangent], packed, mix, edge_mix, stats, False, needs, plan.text)
        torch.library.opcheck(backward, given, test_utils=tests)


def test_compiles_without_a_break(fused, small):
    plan, leaves = small
    compiled = torch.compile(loss_of(fused, plan), fullgraph=True, backend="aot_eager")
    results = [torch.autograd.grad(loss(*leaves), leaves) for loss in (compiled, loss_of(reference_cell, plan))]
    assert_alike(*results)


def flat(tensors):
    return torch.cat([t.detach().double().flatten() for t in tensors])


def evaluate(cell, plan, given):
    nodes, noted = cell(*given, plan)
    dnodes = torch.linspace(-1, 2, nodes.numel(), dtype=torch.float64).sin().view_as(nodes).to(nodes.dtype)
    return nodes, noted, torch.autograd.grad(nodes, given.leaves, dnodes)


def assert_at_most_twice_the_error(mine, theirs, truth):
    for (m, *_, dm), (t, *_, dt), (exact, *_, dexact) in [(mine, theirs, truth)]:
        assert (flat([m]) - flat([exact])).norm() <= 2 * (flat([t]) - flat([exact])).norm()
        assert (flat(dm) - flat(dexact)).norm() <= 2 * (flat(dt) - flat(dexact)).norm()


@pytest.mark.parametrize(
    ("backend", "dtype"), [("triton", torch.float32), ("triton", torch.bfloat16), ("cpu", torch.float32)]
)
def test_is_at_most_twice_as_inaccurate_as_the_reference(monkeypatch, use_tiles, arguments, backend, dtype):
    monkeypatch.setenv("FASTNAS_BACKEND", backend)
    plan = solo(Candidate("max_pool"), AVG, SKIP, SEPARABLE, k=2, channels=8)
    # The interpreter adds the pixels of a program one by one, a GPU pairwise: few, or there were 8 times the error
    use_tiles(pixels=16)
    low = arguments(plan, (6, 5), batch=3).to(dtype)
    truth = evaluate(reference_cell, plan, low.to(torch.float64))
    mine, theirs = (evaluate(cell, plan, low) for cell in (mixed_cell, reference_cell))
    assert mine[0].dtype == dtype
    assert mine[1].dtype == torch.float32
    assert [g.dtype for g in mine[2]] == [leaf.dtype for leaf in low.leaves]
    assert_at_most_twice_the_error(mine, theirs, truth)


@pytest.mark.parametrize("channels", [8, 16, 32])
def test_bfloat16_by_tf32_products_is_more_accurate_than_eager(monkeypatch, arguments, channels):
    monkeypatch.setenv("FASTNAS_BACKEND", "triton")
    plan = solo(Candidate("depthwise", 3, 2), channels=channels)  # one ReLU, of the states themselves: no sign flips
    low = arguments(plan, 6, batch=4).to(torch.bfloat16)
    truth = evaluate(reference_cell, plan, low.to(torch.float64))
    theirs = evaluate(reference_cell, plan, low)
    full = evaluate(mixed_cell, plan, low)
    with tf32_products():
        mine = evaluate(mixed_cell, plan, low)
    assert not torch.equal(mine[1], full[1])  # the matrix units did drop bits
    for m, t, exact in zip(*([[nodes], grads] for nodes, _, grads in (mine, theirs, truth)), strict=True):
        assert (flat(m) - flat(exact)).norm() <= (flat(t) - flat(exact)).norm()


def test_under_autocast_states_are_cast_and_all_else_keeps_its_precision(monkeypatch, in_triton, arguments):
    plan = solo(AVG, SKIP, SEPARABLE, k=2, channels=8)
    given = arguments(plan, 6).to(torch.float32)
    truth = evaluate(reference_cell, plan, given.to(torch.float64))
    found = {}
    for backend in ("triton", "reference"):
        monkeypatch.setenv("FASTNAS_BACKEND", backend)
        with torch.autocast("cpu", torch.bfloat16):
            nodes, noted = in_triton(*given, plan)
        dnodes = torch.linspace(-1, 2, nodes.numel(), dtype=torch.float64).sin().view_as(nodes).bfloat16()
        found[backend] = nodes, noted, torch.autograd.grad(nodes, given.leaves, dnodes)
        assert nodes.dtype == torch.bfloat16
        assert {g.dtype for g in found[backend][2]} == {torch.float32}
    assert found["triton"][1].dtype == torch.float32
    assert_at_most_twice_the_error(found["triton"], found["reference"], truth)


def test_second_derivatives_under_autocast_are_those_of_the_cast_states(in_triton, arguments):
    plan = solo(AVG, DEPTHWISE)
    given = arguments(plan, 4).to(torch.float32)
    rounded = given.states[0].detach().bfloat16()
    results = []
    for leaf, autocast in ((given.states[0], True), (rounded.double().requires_grad_(), False)):
        others = [x.detach() if autocast else x.detach().double() for x in given.leaves[1:]]
        cell = in_triton if autocast else reference_cell
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            nodes = function_of_leaves(cell, plan)(leaf, *others)
        (first,) = torch.autograd.grad(nodes.double().pow(3).sum(), leaf, create_graph=True)
        results.append(torch.autograd.grad(first.pow(2).sum(), leaf)[0].double())
    # The nodes are rounded to bfloat16 (2^-9 relative) before they are raised to the third power, and so is their
    # gradient, twice
    assert (results[0] - results[1]).norm() <= 0.05 * results[1].norm()


def test_a_launcher_keeps_sums_in_at_least_float32(arguments):
    plan = solo(AVG)
    for dtype, exact in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        launch = launcher(torch.empty(1, 1, 3, 3, 4, dtype=dtype), plan, frozen=False)
        assert launch.empty(1, exact=True).dtype == exact
