"""What makes two configurations the same."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastnas.costs.limit import DeriveWithin
from fastnas.costs.tables import NetworkSize, parameter_table
from fastnas.fingerprint import _text, fingerprint
from fastnas.mechanisms.schedules import Constant, Ramp
from fastnas.methods.library import METHODS, darts, gdas, p_darts, pc_darts, robust_darts_dp
from fastnas.methods.method import Term
from fastnas.spaces.cell_space import NASBENCH201

ROOT = Path(__file__).parents[1]


def scaled(factor):
    def penalty(mix):
        return factor * sum(rows.sum() for rows in mix.values())

    return replace(darts(), penalties=(Term(penalty, Constant(1.0)),))


def limited(limit):
    table = parameter_table(NASBENCH201, NetworkSize(channels=4, cells=1, resolution=8))
    return replace(darts(), derivation=DeriveWithin(table, limit))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pc_darts(), replace(pc_darts(), partial_channels=2, edge_normalisation=True)),
        (gdas(), gdas(last_tau=0.1)),
        (p_darts(), p_darts(skips=3)),
        (robust_darts_dp(), robust_darts_dp(largest=0.4)),
        (darts(), replace(darts(), drop_path=Ramp(0.0, 0.2))),
        (scaled(1.0), scaled(2.0)),
        (replace(darts(), learning_rate=lambda rate: 0.1), replace(darts(), learning_rate=lambda rate: 0.2)),
        (limited(1e4), limited(2e4)),
        (torch.tensor([1.0]), torch.tensor([2.0])),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        ([1, 2], (1, 2)),
    ],
)
def test_two_variants_differ(one, other):
    assert fingerprint(one) != fingerprint(other)


def test_the_same_variant_made_again_is_the_same():
    assert fingerprint(scaled(2.0)) == fingerprint(scaled(2.0))
    assert fingerprint(limited(1e4)) == fingerprint(limited(1e4))
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_a_field_that_earlier_checkpoints_do_not_know_leaves_their_methods_as_they_were():
    assert fingerprint(replace(darts(), alpha_lr_of_several=0.1)) == fingerprint(darts())
    assert "alpha_lr_of_several" not in _text(darts())


def test_no_two_methods_are_the_same_and_another_process_agrees():
    ours = [fingerprint(recipe()) for recipe in METHODS.values()]
    assert len(set(ours)) == len(METHODS)
    script = (
        "from fastnas.fingerprint import fingerprint\nfrom fastnas.methods.library import METHODS\n"
        "print(*[fingerprint(recipe()) for recipe in METHODS.values()])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == ours


def test_functions_are_told_apart_by_their_source_and_not_by_the_code_of_one_python(tmp_path):
    """Bytecode is another one under the next Python: a run with a lambda could not be resumed."""
    text = """
def make(n):
    return [lambda x: x + n, lambda x: x - n, lambda x: x  +  # as the first
        n, lambda y: y + n]

def outer():
    def inner(x):
        y = 2 * x
        return y
    return inner
"""
    namespaces = []
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text(text if name == "one.py" else text.replace("2 * x", "2 *   x  # twice"))
        namespaces.append({"__name__": "mine"})
        exec(compile((tmp_path / name).read_text(), tmp_path / name, "exec"), namespaces[-1])
    plus, minus, same, renamed = map(fingerprint, namespaces[0]["make"](1))
    assert plus == same
    assert len({plus, minus, renamed}) == 3
    assert plus != fingerprint(namespaces[0]["make"](2)[0])
    inner = [namespace["outer"]() for namespace in namespaces]
    assert fingerprint(inner[0]) == fingerprint(inner[1])
    inner[1].__code__ = inner[1].__code__.replace(co_code=inner[1].__code__.co_code + b"\t\0")  # as another Python
    assert fingerprint(inner[0]) == fingerprint(inner[1])
