"""Does every kernel compute what its eager definition says, on this device?

A function is evaluated by the kernels and by the eager definition in the same dtype; the truth is the eager definition
in float64, at the same (rounded) arguments. The kernels pass if their error is at most twice eager's own, of values and
of gradients, and if a second evaluation gives the same bits.
"""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import gradcheck

from fastnas_kernels.gumbel import Form, gumbel_softmax
from fastnas_kernels.mixed_op.cell import mixed_cell
from fastnas_kernels.mixed_op.plan import CellPlan
from fastnas_kernels.mixture import mixed_sum
from fastnas_kernels.partial_channels import merge_channels
from fastnas_kernels.tensors import accumulator
from measuring.cells import Cell, Scale, arguments_of, darts_plan, tiny_plan
from measuring.device import FAULTS, Device, exact_float32, forced, interpreter
from measuring.writing import Section

FACTOR = 2.0
"""Kernels may be off by twice what eager is off by, as the project's tests have it."""
LEAST = {torch.float32: 4 * torch.finfo(torch.float32).eps, torch.bfloat16: torch.finfo(torch.bfloat16).eps}
"""And by so much, relative, where eager happens to be better than its precision: the last bit of what is stored, and
the last two of sums of float32 whose order differs from eager's."""


class Subject(NamedTuple):
    """A public function as a function of tensors.

    Args:
        name: What tables call it.
        call: Returns its outputs; those that do not require gradients are compared all the same.
        arguments: Float64 arguments for a seed; the first ``num_stored`` are stored in the dtype that is checked, the
            others are coefficients and stay float32 at least.
        num_stored: See above.
    """

    name: str
    call: Callable[..., Sequence[Tensor]]
    arguments: Callable[[int], Sequence[Tensor]]
    num_stored: int


def subjects(scale: Scale) -> list[Subject]:
    """Every public function that has kernels."""
    if scale == "tiny":
        plans = [("mixed_cell", tiny_plan(k=2), 1, 3)]
        sums, images = ((3, 5),), (2, 4, 3, 3)
    else:
        plans = [
            ("mixed_cell, normal", darts_plan(16), 4, 14),
            ("mixed_cell, reduction", darts_plan(16, stride=2), 4, 15),
            ("mixed_cell, K=4", darts_plan(64, k=4), 4, 14),
            ("mixed_cell, K=2, stride 2", darts_plan(32, stride=2, k=2), 4, 15),
            ("mixed_cell, C=64", darts_plan(64), 4, 7),
        ]
        sums, images = ((8, 12345), (70, 4321)), (8, 64, 15, 15)
    found = [_cell(name, plan, n, side, False) for name, plan, n, side in plans]
    found += [_cell(f"{name}, given statistics", plan, n, side, True) for name, plan, n, side in plans[:1]]
    found += [_gradient(_cell(name, plan, n, side, False)) for name, plan, n, side in plans if "C=64" not in name]
    found += [_sum(*shape) for shape in sums]
    found += [_merge(images, layout, ordered) for layout in ("NCHW", "NHWC") for ordered in (False, True)]
    return found + [_gumbel(form) for form in ("soft", "straight_through", "argmax")]


def _cell(name: str, plan: CellPlan, images: int, side: int, frozen: bool) -> Subject:
    num_states, num_weights = plan.num_inputs, sum(len(shapes) for shapes in plan.weight_shapes.values())

    def arguments(seed: int) -> Sequence[Tensor]:
        drawn = arguments_of(Cell(name, plan, images, side), torch.float64, torch.device("cpu"), seed)
        extra = [drawn.edge_mix] if drawn.edge_mix is not None else []
        return [*drawn.states, *drawn.weights, drawn.mix, *extra]

    def call(*given: Tensor) -> Sequence[Tensor]:
        states, weights = given[:num_states], given[num_states : num_states + num_weights]
        mix, *edges = given[num_states + num_weights :]
        statistics = torch.ones(len(plan.norms), 2, plan.mixed_channels, dtype=mix.dtype, device=mix.device)
        return mixed_cell(states, weights, mix, edges[0] if edges else None, plan, statistics if frozen else None)

    return Subject(name, call, arguments, num_states + num_weights)


def _gradient(of: Subject) -> Subject:
    """Whose values are the gradients of another, and whose gradients are products with its second derivatives."""

    def call(*given: Tensor) -> Sequence[Tensor]:
        nodes = of.call(*given)[0]
        dy = _drawer(2)(*nodes.shape).to(torch.bfloat16).to(nodes)
        return torch.autograd.grad(nodes, given, dy, create_graph=True)

    return Subject(f"gradient of {of.name}", call, of.arguments, of.num_stored)


def _sum(num_candidates: int, num_elements: int) -> Subject:
    def arguments(seed: int) -> Sequence[Tensor]:
        draw = _drawer(seed)
        return [*(draw(num_elements) for _ in range(num_candidates)), draw(num_candidates)]

    name = f"mixed_sum of {num_candidates}"
    return Subject(name, lambda *xs: [mixed_sum(xs[:-1], xs[-1])], arguments, num_candidates)


def _merge(shape: tuple[int, int, int, int], layout: str, ordered: bool) -> Subject:
    n, channels, height, width = shape
    memory_format = torch.channels_last if layout == "NHWC" else torch.contiguous_format

    def arguments(seed: int) -> Sequence[Tensor]:
        draw = _drawer(seed)
        parts = draw(n, channels // 4, height, width), draw(n, 3 * channels // 4, height, width)
        return [part.to(memory_format=memory_format) for part in parts]

    def call(mixed: Tensor, bypass: Tensor) -> Sequence[Tensor]:
        order = torch.arange(channels, device=mixed.device).flip(0) if ordered else None
        return [merge_channels(mixed, bypass, 4, order)]

    return Subject(f"merge_channels, {'ordered' if ordered else 'shuffled'}, {layout}", call, arguments, 2)


def _gumbel(form: Form) -> Subject:
    def call(alpha: Tensor) -> Sequence[Tensor]:
        alive = torch.ones_like(alpha, dtype=torch.bool)
        alive[::2, -1] = False
        return gumbel_softmax(alpha, 11, 0.7, form, alive)

    return Subject(f"gumbel_softmax, {form}", call, lambda seed: [_drawer(seed)(14, 8)], 1)


def _drawer(seed: int) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)


class Results(NamedTuple):
    """Of the values and of the gradients of one evaluation: tensors, or their errors."""

    values: list[Any]
    gradients: list[Any]


def evaluate(subject: Subject, arguments: Sequence[Tensor], backend: str) -> Results:
    """Values and gradients of all arguments, against gradients of the values that are always the same."""
    leaves = [x.detach().requires_grad_() for x in arguments]
    draw = _drawer(1)
    with forced(backend):
        outputs = list(subject.call(*leaves))
        smooth = [y for y in outputs if y.requires_grad]
        # Rounded as the coarsest dtype rounds, so that those of the truth are the same numbers
        dys = [draw(*y.shape).to(torch.bfloat16).to(y.device, y.dtype) for y in smooth]
        found = torch.autograd.grad(smooth, leaves, dys, allow_unused=True) if smooth else []
    return Results([y.detach() for y in outputs], [g for g in found if g is not None])


def relative_errors(mine: Sequence[Tensor], truth: Sequence[Tensor]) -> list[float]:
    """Of each tensor: the norm of its error, relative to its own; infinite if something is not finite."""
    errors = []
    for x, exact in zip(mine, truth, strict=True):
        norm = exact.double().norm().clamp_min(torch.finfo(torch.float64).tiny)
        error = ((x.double() - exact.double()).norm() / norm).item()
        errors.append(error if error == error else float("inf"))  # noqa: PLR0124  (NaN is not itself)
    return errors


class Draw(NamedTuple):
    """Errors at one draw of arguments, of every value and gradient, and whether a second evaluation gave the same."""

    mine: Results
    eager: Results
    same_bits: bool


def compare(subject: Subject, dtype: torch.dtype, device: torch.device, seeds: Sequence[int]) -> dict[str, Any]:
    """Errors of kernels and of eager, and whether the kernels pass.

    Of several draws the median counts: rounding may move a value across the corner of a ReLU, which changes a gradient
    by far more than the rounding and is nobody's error.
    """
    draws = [_draw(subject, dtype, device, seed) for seed in seeds]
    record: dict[str, Any] = {}
    ok = all(draw.same_bits for draw in draws)
    for part in Results._fields:
        mine, eager = (_medians([getattr(getattr(draw, who), part) for draw in draws]) for who in ("mine", "eager"))
        allowed = [max(FACTOR * error, LEAST[dtype]) for error in eager]
        ratios = [error / limit for error, limit in zip(mine, allowed, strict=True)]
        worst = ratios.index(max(ratios)) if ratios else None
        record[f"error of {part}"] = 0.0 if worst is None else mine[worst]
        record[f"eager's of {part}"] = 0.0 if worst is None else eager[worst]
        ok = ok and all(ratio <= 1 for ratio in ratios)
    return record | {"same bits": all(draw.same_bits for draw in draws), "ok": ok}


def _medians(errors_of_draws: Sequence[Sequence[float]]) -> list[float]:
    return [median(errors) for errors in zip(*errors_of_draws, strict=True)]


def _draw(subject: Subject, dtype: torch.dtype, device: torch.device, seed: int) -> Draw:
    exact = accumulator(dtype)
    given = [x.to(device, dtype if i < subject.num_stored else exact) for i, x in enumerate(subject.arguments(seed))]
    truth = evaluate(subject, [x.double() for x in given], "reference")
    eager = evaluate(subject, given, "reference")
    mine, again = (evaluate(subject, given, "triton") for _ in range(2))
    pairs = zip([*mine.values, *mine.gradients], [*again.values, *again.gradients], strict=True)

    def errors(found: Results) -> Results:
        return Results(*(relative_errors(x, exact) for x, exact in zip(found, truth, strict=True)))

    return Draw(errors(mine), errors(eager), all(torch.equal(x, y) for x, y in pairs))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def small_subjects(scale: Scale) -> list[Subject]:
    """Those whose gradients are compared with slopes, at sizes where that takes no time."""
    plans = [tiny_plan(k=2)] if scale == "tiny" else [tiny_plan(), tiny_plan(k=2), tiny_plan(stride=2)]
    found = [_sum(3, 5), _merge((1, 4, 2, 2), "NHWC", False), _gumbel("soft")]
    return found + [_cell(f"mixed_cell, K={plan.k}, stride {plan.stride}", plan, 1, 3, False) for plan in plans]


def require_slopes(subject: Subject, device: torch.device, fast: bool) -> None:
    """PyTorch's ``gradcheck`` in float64, through the kernels; raises at a difference. ``fast`` looks at projections
    instead of every entry, for devices where an evaluation takes a second."""
    arguments = [x.to(device).requires_grad_() for x in subject.arguments(0)]
    with forced("triton"):
        gradcheck(lambda *xs: [y for y in subject.call(*xs) if y.requires_grad], arguments, fast_mode=fast)


def check(device: Device, scale: Scale) -> Section:
    """The table of all checks, and whether they all pass."""
    records: list[dict[str, Any]] = []
    seeds = (0,) if scale == "tiny" else (0, 1, 2)

    def attempt(name: str, dtype: torch.dtype, run: Callable[[], dict[str, Any]]) -> None:
        record = {"function": name, "dtype": _name(dtype)}
        try:
            records.append(record | run())
        except FAULTS as fault:
            records.append(record | {"ok": False, "fault": first_line(fault)})

    def slopes(subject: Subject) -> dict[str, Any]:
        require_slopes(subject, device.torch_device, fast=scale == "tiny")
        return {"ok": True}

    with interpreter(), exact_float32():
        for subject in subjects(scale):
            for dtype in LEAST:
                attempt(subject.name, dtype, partial(compare, subject, dtype, device.torch_device, seeds))
        for subject in small_subjects(scale):
            attempt(f"gradcheck of {subject.name}", torch.float64, partial(slopes, subject))
    numbers = ("error of values", "eager's of values", "error of gradients", "eager's of gradients")
    rows = [
        [
            record["function"],
            record["dtype"],
            *(f"{record[key]:.1e}" if key in record else "" for key in numbers),
            {True: "yes", False: "NO", None: ""}[record.get("same bits")],
            "pass" if record["ok"] else f"FAIL {record.get('fault', '')}".strip(),
        ]
        for record in records
    ]
    notes = (
        "Relative errors of the kernels and of the eager definition in the same dtype against the eager definition in "
        "float64, for the tensor with the worst ratio; the median of the draws. A pass is at most twice eager's error "
        "(or the last bits of the dtype, where eager is better than these) and the same bits in two evaluations.",
    )
    columns = ("function", "dtype", *numbers, "same bits", "")
    return Section("Are the kernels right?", columns, rows, notes, records, all(record["ok"] for record in records))


def first_line(fault: BaseException) -> str:
    """What went wrong, in a cell of a table."""
    lines = str(fault).strip().splitlines() or [""]
    return f"{type(fault).__name__}: {lines[0][:160]}".replace("|", "/")
