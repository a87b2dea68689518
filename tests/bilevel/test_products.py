"""Products with second derivatives against matrices written out in float64."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastnas.bilevel.named import norm
from fastnas.bilevel.products import (
    average_products,
    central_difference,
    forward_over_reverse,
    gauss_newton,
    make_product,
    reverse_over_reverse,
)


def from_kept(loss, at, v, of=None, **options):
    return make_product(loss, at, tuple(v), of, **options)(v)


def by_difference(loss, at, v, of=None, **options):
    return central_difference(loss, at, v, of, **options).product


EXACT = [forward_over_reverse, reverse_over_reverse, from_kept]
each_exact = pytest.mark.parametrize("product", EXACT)
each = pytest.mark.parametrize("product", [*EXACT, by_difference])


def relative(found, exact):
    return ((found - exact).norm() / exact.norm()).item()


@pytest.fixture(scope="module")
def known(build_problem):
    """A problem and its matrix: two hundred backward passes."""
    problem = build_problem(torch.float64)
    return problem, problem.dense()


@each_exact
@pytest.mark.parametrize(("along", "of"), [("w", "w"), ("alpha", "alpha"), ("w", "alpha"), ("alpha", "w")])
def test_exact_products_are_those_of_the_matrix_in_the_weights_in_alpha_and_mixed(known, product, along, of):
    problem, matrix = known
    names, rows = list(getattr(problem, along)), list(getattr(problem, of))
    v = problem.direction(names)
    found = product(problem.loss, problem.at, v, rows)
    exact = matrix[problem.rows(rows)][:, problem.rows(names)] @ problem.flat(v)
    assert list(found) == rows
    assert relative(problem.flat(found), exact) < 1e-10


@each_exact
def test_products_over_several_batches_are_those_with_the_mean_of_their_losses(build_problem, product):
    problem = build_problem(torch.float64, batches=3)
    v = problem.direction(problem.at)
    found = average_products(problem.losses, problem.at, v, product=product)
    together = product(lambda at: sum(loss(at) for loss in problem.losses) / 3, problem.at, v)
    assert relative(problem.flat(found), problem.flat(together)) < 1e-10


def test_one_batch_is_asked_for_at_a_time(build_problem):
    problem = build_problem(torch.float64)
    alive = []

    def batches():
        for _ in range(4):
            alive.append("drawn")
            yield lambda at: alive.append("used") or problem.loss(at)

    average_products(batches(), problem.at, problem.direction(["alpha"]))
    assert alive == ["drawn", "used"] * 4


def kept_bytes(run):
    """Bytes of all that autograd saved during ``run`` and that was alive at once."""
    sizes = {"now": 0, "most": 0}

    class Held:
        def __init__(self, x):  # an output would hold its own graph: detached
            self.x, self.size = x.detach(), x.untyped_storage().nbytes()
            sizes["now"] += self.size
            sizes["most"] = max(sizes["most"], sizes["now"])

        def __del__(self):
            sizes["now"] -= self.size

    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.x):
        run()
    return sizes["most"]


@each_exact
def test_memory_does_not_grow_with_the_number_of_batches(build_problem, product):
    problem = build_problem(torch.float64, batches=5)
    v = problem.direction(problem.at)
    one, five = (
        kept_bytes(partial(average_products, problem.losses[:n], problem.at, v, product=product)) for n in (1, 5)
    )
    assert one > 0
    assert five == one


def test_a_difference_is_within_a_thousandth_in_float32_where_every_primitive_is_smooth(build_problem):
    problem, wide = (build_problem(dtype, smooth=True) for dtype in (torch.float32, torch.float64))
    for along, of in (("w", "w"), ("alpha", "alpha"), ("w", "alpha")):
        v, rows = wide.direction(getattr(wide, along)), list(getattr(wide, of))
        narrow = {name: x.float() for name, x in v.items()}
        exact = wide.flat(forward_over_reverse(wide.loss, wide.at, v, rows))
        found = central_difference(problem.loss, problem.at, narrow, rows)
        error = (problem.flat(found.product) - exact).norm().item()
        assert error < 1e-3 * exact.norm().item()
        assert error < 3 * found.error  # the estimate leaves out higher orders


def test_the_estimated_error_of_a_difference_shows_the_corners_of_relu_and_maximum(build_problem):
    problem = build_problem(torch.float64)
    v = problem.direction(problem.w)
    exact = problem.flat(forward_over_reverse(problem.loss, problem.at, v))
    found = central_difference(problem.loss, problem.at, v, radius=1.0)
    error = (problem.flat(found.product) - exact).norm().item()
    assert error > 0.1 * exact.norm().item()
    assert found.error > error / 10


def test_a_difference_along_nothing_is_nothing(build_problem):
    problem = build_problem(torch.float64)
    found = central_difference(problem.loss, problem.at, {"alpha": torch.zeros_like(problem.at["alpha"])})
    assert found.product["alpha"].tolist() == [0.0] * problem.at["alpha"].numel()


def test_the_gauss_newton_product_is_that_of_the_jacobian_and_the_curvature_of_the_loss():
    x, y = torch.randn(5, 4, dtype=torch.float64), torch.randint(3, (5,))
    at = {"a": torch.randn(4, 6, dtype=torch.float64), "b": torch.randn(6, 3, dtype=torch.float64)}

    def outputs(at):
        return (x @ at["a"]).tanh() @ at["b"]

    loss = partial(F.cross_entropy, target=y)
    flat = torch.cat([at["a"].flatten(), at["b"].flatten()])
    of_flat = torch.autograd.functional.jacobian(
        lambda f: outputs({"a": f[:24].view(4, 6), "b": f[24:].view(6, 3)}), flat
    )
    jacobian = of_flat.reshape(15, -1)
    curvature = torch.autograd.functional.hessian(loss, outputs(at)).reshape(15, 15)
    matrix = jacobian.T @ curvature @ jacobian
    v = {name: torch.randn_like(p) for name, p in at.items()}
    found = gauss_newton(outputs, loss, at, v)
    v_flat, found_flat = (torch.cat([t["a"].flatten(), t["b"].flatten()]) for t in (v, found))
    assert relative(found_flat, matrix @ v_flat) < 1e-12
    assert v_flat @ found_flat >= 0
    mixed = gauss_newton(outputs, loss, at, {"a": v["a"]}, ["b"])["b"]
    assert relative(mixed.flatten(), matrix[24:, :24] @ v["a"].flatten()) < 1e-12


# ---- nothing is disturbed -----------------------------------------------------------------------------------------


class Stateful(nn.Module):
    """A network that an evaluation moves: running statistics, and dropout."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(36, 3)
        )

    def forward(self, x):
        return self.layers(x)


def photograph(network):
    tensors = [*network.parameters(), *network.buffers(), *(p.grad for p in network.parameters())]
    return [x.clone() for x in tensors], torch.get_rng_state()


def unchanged(before, after):
    return all(torch.equal(x, y) for x, y in zip(before[0], after[0], strict=True)) and torch.equal(before[1], after[1])


@each
@pytest.mark.parametrize("fails", [False, True])
def test_weights_statistics_gradients_and_the_random_state_stay_bit_for_bit_also_if_one_raises(product, fails):
    network = Stateful()
    for p in network.parameters():
        p.grad = torch.randn_like(p)
    x, y = torch.randn(6, 1, 5, 5), torch.randint(3, (6,))

    def loss(at):
        value = F.cross_entropy(functional_call(network, at, (x,)), y)
        if fails:
            raise ArithmeticError("after the statistics have moved")
        return value

    at = dict(network.named_parameters())
    v = {name: torch.randn_like(p) for name, p in at.items()}
    call = partial(product, loss, at, v, state=tuple(network.buffers()))
    before = photograph(network)
    if fails:
        with pytest.raises(ArithmeticError):
            call()
    else:
        first, again = call(), call()
        assert all(torch.equal(first[name], again[name]) for name in at)  # the same dropout
    assert unchanged(before, photograph(network))


def test_the_exact_products_of_a_network_with_dropout_agree():
    network, x, y = Stateful(), torch.randn(6, 1, 5, 5), torch.randint(3, (6,))
    at = dict(network.named_parameters())
    v = {name: torch.randn_like(p) for name, p in at.items()}
    one, *others = (
        product(lambda at: F.cross_entropy(functional_call(network, at, (x,)), y), at, v) for product in EXACT
    )
    size = norm(one)
    for other in others:
        assert norm({name: one[name] - other[name] for name in at}) < 1e-5 * size  # float32


@each_exact
def test_products_of_a_loss_in_bfloat16_are_float32_and_close(build_problem, product):
    problem = build_problem(torch.float32, smooth=True)
    v = problem.direction(problem.at)

    def narrow(at):
        with torch.autocast("cpu", torch.bfloat16):
            return problem.loss(at)

    exact, found = product(problem.loss, problem.at, v), product(narrow, problem.at, v)
    assert {x.dtype for x in found.values()} == {torch.float32}
    assert relative(problem.flat(found), problem.flat(exact)) < 0.1  # bfloat16 rounds to 2^-9, in some dozen operations


# ---- what is refused ----------------------------------------------------------------------------------------------


def square(at):
    return (at["a"] ** 2).sum()


ONE = {"a": torch.ones(3)}


@each
def test_a_tensor_that_does_not_enter_the_loss_is_named_or_gets_zeros(product):
    at = {"a": torch.ones(3), "idle": torch.ones(2)}
    with pytest.raises(
        ValueError, match=r"the loss must depend on every tensor, got no trace of \['idle'\]\. Leave them"
    ):
        product(square, at, at)
    found = product(square, at, at, allow_unused=True)
    assert found["idle"].tolist() == [0.0, 0.0]
    torch.testing.assert_close(found["a"], torch.full((3,), 2.0), rtol=1e-3, atol=0)  # the difference's rounding


@each
@pytest.mark.parametrize(
    ("loss", "v", "of", "message"),
    [
        (square, {"a": torch.ones(4)}, None, r"v\['a'\] must have shape \[3\], got \[4\]"),
        (
            square,
            {"a": torch.ones(3), "b": torch.ones(3)},
            None,
            r"v and of must have names out of \['a'\], got \['b'\]",
        ),
        (square, ONE, ["c"], r"v and of must have names out of \['a'\], got \['c'\]"),
        (square, {}, None, "v must not be empty"),
        (lambda at: at["a"] ** 2, ONE, None, r"loss must be a scalar, got shape \[3\]\. Take its mean"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(product, loss, v, of, message):
    with pytest.raises(ValueError, match=message) as caught:
        product(loss, ONE, v, of)
    assert "\n" not in str(caught.value)


class Once(torch.autograd.Function):
    """A kernel whose backward was written in plain launches, and says so."""

    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        return 2 * dy * ctx.saved_tensors[0]


@each_exact
def test_a_loss_that_is_not_twice_differentiable_is_said_in_one_line(product):
    with pytest.raises(
        ValueError, match=r"loss must be twice differentiable, got .*(Once|jvp).* Use .*central_difference"
    ) as caught:
        product(lambda at: Once.apply(at["a"]).sum(), ONE, ONE)
    assert "\n" not in str(caught.value)
    assert by_difference(lambda at: Once.apply(at["a"]).sum(), ONE, ONE)["a"].tolist() == pytest.approx([2.0] * 3, 1e-3)


@each_exact
def test_a_linear_loss_has_no_curvature(product):
    assert product(lambda at: 3 * at["a"].sum(), ONE, ONE)["a"].tolist() == [0.0, 0.0, 0.0]


def test_other_errors_of_a_loss_keep_their_words():
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
        forward_over_reverse(lambda at: (at["a"][None] @ torch.ones(4, 1)).sum(), ONE, ONE)


def test_a_radius_and_a_list_of_losses_must_make_sense():
    with pytest.raises(ValueError, match="radius must be positive, got 0"):
        central_difference(square, ONE, ONE, radius=0)
    with pytest.raises(ValueError, match="losses must not be empty"):
        average_products([], ONE, ONE)
    with pytest.raises(ValueError, match=r"v must have the names \['a'\], got \['b'\]"):
        make_product(square, ONE)({"b": torch.ones(3)})


@each_exact
def test_attention_names_the_switch_that_makes_it_twice_differentiable(product):
    q = torch.randn(1, 2, 4, 8)

    def loss(at):
        return F.scaled_dot_product_attention(q * at["a"], q, q).square().mean()

    at, v = {"a": torch.ones(8)}, {"a": torch.ones(8)}
    with pytest.raises(
        ValueError, match=r"twice differentiable, .*sdpa_kernel\(SDPBackend.MATH\)\. .* central_difference"
    ):
        product(loss, at, v)
    with sdpa_kernel(SDPBackend.MATH):
        assert product(loss, at, v)["a"].abs().sum() > 0
