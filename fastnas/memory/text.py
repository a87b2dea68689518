"""A plan in words."""

from collections.abc import Iterator, Sequence

from fastnas.memory.budget import show_bytes
from fastnas.memory.planner import Option, Plan
from fastnas.memory.scaling import Scaling

_TARGETS = {
    "cuda": "a GPU (its kernels, blocks of 512 bytes); --for cpu plans the CPU",
    "cpu": "the CPU (its kernels); --for cuda or a budget such as 24GiB plans a GPU, which need not be here",
}


def describe(plan: Plan) -> Iterator[str]:
    """The budget, what every byte is for, what is done, and what the alternatives are."""
    budget, config = plan.budget, plan.requested.config
    size = f"{config.channels} channels, {config.batch_size} images a step"
    yield f"search: {plan.requested.method.name} in {plan.requested.space.name}, {size}"
    yield f"for: {_TARGETS[budget.target]}"
    yield f"budget: {budget.text}, of which {show_bytes(budget.usable)} for tensors ({budget.why})"
    yield from _table(plan)
    if plan.chosen is None:
        yield "nothing fits; each of these alone would make it fit:"
        yield from (f"  {remedy}" for remedy in plan.remedies or ("nothing that was tried",))
        return
    rows = [("keep everything", plan.everything), ("next faster", plan.faster), ("the plan", plan.chosen)]
    rows.append(("next smaller", plan.smaller))
    for title, option in rows:
        if option is not None:
            yield f"{title:16} {_line(plan, option)}"
    if plan.typical is not None:
        yield f"{plan.requested.method.name} draws candidates: the peak is that of the draws that need most;"
        yield f"  at a fresh alpha the median draw needs {show_bytes(plan.typical)}"
    if plan.device:
        yield f"seconds: of one step, measured on some steps of a small batch on {plan.device}"
    elif budget.target == "cuda":
        yield "seconds: none, since no step was timed on a GPU; plan on the machine that has it to see them"
    yield "No batch is cut into parts: each would be normalised by statistics of its own, which is another search."


def describe_scaling(rows: Sequence[Scaling]) -> Iterator[str]:
    """A line for each number of processes, if there are any."""
    if not rows:
        return
    yield "GPUs  s a step: compute + exchange, loading        speed-up  efficiency  limited by"
    for row in rows:
        parts = f"{row.seconds:8.3g}: {row.compute:7.3g} + {row.exchange:<8.2g} {row.loading:7.2g}"
        yield f"{row.processes:4}  {parts}   {row.speedup:13.1f}  {row.efficiency:10.0%}  {row.limit}"


def _table(plan: Plan) -> Iterator[str]:
    option = plan.chosen or plan.everything
    what = "the plan" if plan.chosen else "everything kept"
    yield f"peak of every phase under {what}, and what is alive at that moment:"
    for name, peak in option.prediction.phases.items():
        yield f"  {name:40} {show_bytes(peak.num_bytes):>12}"
        for cause, size in sorted(peak.causes.items(), key=lambda pair: -pair[1]):
            yield f"    {cause:38} {show_bytes(size):>12} {size / peak.num_bytes:6.1%}"


def _line(plan: Plan, option: Option) -> str:
    seconds = "" if option.seconds is None else f", {option.seconds:.3g} s a step"
    config, requested = option.config, plan.requested.config
    changes = [
        f"--{name.replace('_', '-')} {getattr(config, name)}"
        for name in ("batch_size", "precision")
        if getattr(config, name) != getattr(requested, name)
    ]
    words = " ".join(["--recompute", *option.config.recompute, *changes])
    return f"{show_bytes(option.prediction.peak.num_bytes):>12}{seconds}: {words}"
