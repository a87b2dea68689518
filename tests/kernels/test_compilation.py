"""Triton's just-in-time path up to the driver, in processes of their own: the tests' own interprets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]
FORMS = {"1": 20, "2": 22}
"""Of a DARTS cell in float32, forward and backward, without and with partial channels."""
LAUNCHES = {"1": 79, "2": 84}
RATIO = 4.5
"""Most that a launch costs of the processor, what PyTorch does between two launches included, in bare launches."""


def run(*arguments):
    path = os.pathsep.join(map(str, (ROOT, ROOT / "kernels")))
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.kernels.fake_gpu", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("k", FORMS)
def test_forms_of_a_cell_are_compiled_once_side_by_side_and_not_launched(k):
    found = run(k)
    assert found["compiled ahead"] == FORMS[k]
    assert found["seen"] == [FORMS[k], FORMS[k]]
    assert found["compiled later"] == found["launched early"] == 0
    assert found["threads"] > 1
    assert found["launches"] == LAUNCHES[k]
    assert found["same arguments"]
    assert found["microseconds"] <= RATIO * found["bare"]


@pytest.mark.parametrize("method", ["darts", "darts_2nd", "gdas"])
def test_a_search_compiles_what_it_launches_and_moves_nothing(method):
    """Second derivatives included; and a draw that stays on the device launches the same whatever it is."""
    found = run("search", method)
    assert found["compiled ahead"] > 20
    assert found["compiled later"] == found["launched early"] == 0
    assert found["moved"] == []
