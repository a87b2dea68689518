"""One process of several that make the same steps; forked by test_together.py with torchrun's variables set."""

import json
from pathlib import Path

import torch
import torch.distributed as dist

from fastnas.data import Batch
from fastnas.engine import step
from fastnas.engine.step import alpha_gradients, outer_eigenvalue, search_step
from fastnas.methods.library import METHODS
from fastnas.ranks import ALONE, join_processes
from fastnas_audit.interpreter import replaced
from tests.engine.points import make_batches, make_run


def steps_of(names, ranks, synchronise):
    """For every method: hypergradient, eigenvalue, and what one step makes of alpha and the weights."""
    found = {}
    for name in names:
        run = make_run(METHODS[name](), ranks, synchronise_statistics=synchronise)
        own = ranks.part(8)
        weight_batch, search_batch = (Batch(b.images[own], b.labels[own]) for b in make_batches())
        eigenvalue = outer_eigenvalue(run, search_batch, 0) if name == "darts" else 0.0
        kept = []

        def kept_gradients(*arguments, kept=kept):
            kept.append(alpha_gradients(*arguments))
            return kept[-1]

        if (
            run.method.update_schedule.joint or run.method.update_schedule.alpha_every > 1
        ):  # its step has none of its own
            with run.statistics():
                kept_gradients(run, weight_batch, search_batch)
        with replaced(step, alpha_gradients=kept_gradients):
            search_step(run, weight_batch, search_batch)
        ((_, gradients),) = kept
        found[name] = {
            "hypergradient": gradients,
            "eigenvalue": torch.tensor(eigenvalue),
            "alpha": dict(run.state.alpha),
            "w": dict(run.state.w),
            "loss": torch.stack(run.state.losses.inner),
        }
    return found


def numbers_sent(ranks):
    """How many numbers every step of alpha of a first-order search sends to the others, and a step of the weights."""
    run = make_run(METHODS["darts"](), ranks)
    weight_batch, search_batch = (Batch(b.images[ranks.part(8)], b.labels[ranks.part(8)]) for b in make_batches())
    sent, send = [], dist.all_reduce
    dist.all_reduce = lambda x, *args: (sent.append(x.numel()), send(x, *args))[1]
    try:
        alpha_gradients(run, weight_batch, search_batch)
        of_alpha = list(sent)
        sent.clear()
        search_step(run, weight_batch, None)
    finally:
        dist.all_reduce = send
    return {"alpha": of_alpha, "weights": sent}


def complaint_about(ranks, text):
    ranks.require_same("the configuration", '{"a": 1}')
    try:
        ranks.require_same("the configuration", text)
    except ValueError as error:
        return str(error)


def main(out, *names):
    with join_processes("cpu") as ranks:
        assert ranks != ALONE
        found = {"together": steps_of(names, ranks, True), "apart": steps_of(names[:1], ranks, False)}
        found["sent"] = numbers_sent(ranks)
        found["complaint"] = complaint_about(ranks, json.dumps({"a": 1, "epochs": 3 + ranks.index}))
        torch.save(found, Path(out) / f"{ranks.index}.pt")
