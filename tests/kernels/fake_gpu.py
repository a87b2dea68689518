"""Triton's just-in-time path up to the driver, on a GPU that is not there; run in a process that does not interpret.

Prints a line of JSON: what a cell or a search compiles ahead, in how many threads, and what a launch costs in Python
beside a bare one.
"""

import json
import sys
import threading
import time

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from fastnas_audit.cell_cases import DARTS, plan_of
from fastnas_audit.interpreter import replaced
from fastnas_kernels.compilation import compiling_ahead
from fastnas_kernels.mixed_op import forms, launch, launch_backward

compiled, threads, launched = [], set(), []
notes = True  # whether launches are written down, which takes longer than they do


class Driver:
    """Answers what a launch asks of a driver."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def hooks():
    return triton.knobs.runtime.launch_enter_hook, triton.knobs.runtime.launch_exit_hook


def _noted(x):
    return (str(x.dtype), x.shape, x.stride(), x.storage_offset()) if isinstance(x, torch.Tensor) else str(x)


class Kernel:
    """What a compiler would return."""

    function, packed_metadata = 0, ()

    def launch_metadata(self, *given):
        return None

    def run(self, *given):
        if notes:
            launched.append([_noted(x) for x in given])

    def __getitem__(self, grid):
        """As `CompiledKernel` has it."""

        def runner(*given):
            device = driver.active.get_current_device()
            stream = driver.active.get_current_stream(device)
            self.run(*grid, stream, self.function, self.packed_metadata, None, *hooks(), *given)

        return runner


def compile_nothing(source, target=None, options=None, _env_vars=None):
    compiled.append(source.name)
    threads.add(threading.get_ident())
    time.sleep(0.005)
    return Kernel()


@triton.jit(do_not_specialize=["a", "b", "c", "d"])
def bare_kernel(p, q, r, s, a, b, c, d, C: tl.constexpr, P: tl.constexpr):
    pass


def seconds(work, repeats):
    """The least of ``repeats`` times of the processor."""
    found = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


def main(k):
    driver.set_active(Driver())
    triton.compiler.compile = compile_nothing
    plan = plan_of(DARTS, k, 16, 1)
    inputs = torch.zeros(2, 1, 4, 4, plan.channels)
    weights = [torch.zeros(shape) for shape in plan.filter_shapes]
    mix, edge_mix = torch.zeros(plan.num_coefficients), torch.zeros(len(plan.edges))
    seen = []

    def cell():
        nodes, stats, packed, _ = launch.run_forward(inputs, weights, mix, edge_mix, None, plan)
        launch_backward.run_backward(
            nodes, inputs, nodes, packed, mix, edge_mix, stats, False, (True, True, True, k > 1), plan
        )

    with compiling_ahead(lambda done, total: seen.append((done, total)), workers=4):
        cell()
    ahead, early = len(compiled), len(launched)
    cell()
    launches = len(launched)
    with replaced(forms, is_compiling_ahead=lambda: True):  # every launch by Triton's own way
        cell()
    by_triton = launched[launches:]
    cell()
    same = launched[2 * launches :] == by_triton
    global notes  # noqa: PLW0603
    notes = False
    p = torch.zeros(1)

    def bare():
        for _ in range(launches):
            bare_kernel[(4, 2)](p, p, p, p, 1, 2, 3, 4, C=16, P=32, num_warps=4)

    bare()
    ours, theirs = [], []
    for _ in range(5):  # in turn, for others use this machine, too
        ours.append(seconds(cell, 3))
        theirs.append(seconds(bare, 3))
    found = {
        "compiled ahead": ahead, "compiled later": len(compiled) - ahead - 1, "launched early": early,
        "launches": launches, "threads": len(threads), "seen": seen[-1],
        "same arguments": same,
        "microseconds": 1e6 * min(ours) / launches, "bare": 1e6 * min(theirs) / launches,
    }  # fmt: skip
    print(json.dumps(found))


def search(name):
    """The kernels of a small search by a method: compiled ahead, then launched by a step of each kind."""
    from fastnas.data import Batch, load_data  # noqa: PLC0415  (a cell needs none of it)
    from fastnas.engine import drawn  # noqa: PLC0415
    from fastnas.engine.compiling import launch_all  # noqa: PLC0415
    from fastnas.engine.run import Run, build_stage, make_state  # noqa: PLC0415
    from fastnas.engine.step import search_step  # noqa: PLC0415
    from fastnas.methods.library import METHODS  # noqa: PLC0415
    from fastnas.spaces.cell_space import DARTS as SPACE  # noqa: PLC0415
    from fastnas.training.config import SearchConfig  # noqa: PLC0415
    from fastnas_kernels.mixed_op import cell, derivative, operators  # noqa: PLC0415

    driver.set_active(Driver())
    triton.compiler.compile = compile_nothing
    for module in (cell, derivative, operators):
        module.backend_for = lambda device: "triton"
    cell._can_be_read = lambda tensor: False
    drawn._are_served = lambda device: True
    data, method, device = load_data("digits"), METHODS[name](), torch.device("cpu")
    config = SearchConfig(channels=4, cells=3, batch_size=2, device="cpu")
    state = make_state(build_stage(SPACE, method, data, config, 0), method, config, device)
    run = Run(method, data, config, device, (torch.arange(2).numpy(),) * 2, 4, state)
    before = {name: x.clone() for name, x in (state.supernet.state_dict() | state.alpha).items()}
    launch_all(run, None)
    ahead, early = len(compiled), len(launched)
    after = state.supernet.state_dict() | state.alpha
    moved = [name for name, x in before.items() if not torch.equal(x, after[name])]
    batch = Batch(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.long))
    search_step(run, batch, batch)
    later = len(compiled) - ahead
    print(json.dumps({"compiled ahead": ahead, "compiled later": later, "launched early": early, "moved": moved}))


if __name__ == "__main__":
    search(sys.argv[2]) if sys.argv[1] == "search" else main(int(sys.argv[1]))
