"""What does each phase of a search step cost, next to a step that computes all gradients for both?

Prints time (median of interleaved runs, and its ratio) and bytes saved for the backward pass, without the weights,
for a supernet on random images. First checks that the gradients are equal.
"""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import tyro
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from fastnas.engine import relax
from fastnas.methods.library import METHODS
from fastnas.spaces.registry import space_by_name
from fastnas.supernet.architecture import draw_logits
from fastnas.supernet.supernets import build_supernet
from measuring.counting import kept_bytes
from measuring.device import clock_of, medians

# Whether a step needs the gradients of the weights, and of alpha
NEEDED = {"both": (True, True), "alpha step": (False, True), "weight step": (True, False)}


@dataclass(frozen=True, kw_only=True)
class Phases:
    """Cost of the phases of a search step.

    Args:
        method: darts or pc_darts.
        space: darts or nasbench201.
        channels: Channels of the first cells.
        cells: Depth, or cells in a stage.
        batch_size: Images a step.
        resolution: Side of the images in pixels.
        runs: Timed runs of each contender.
        device: cpu or cuda.
    """

    method: str = "darts"
    space: str = "darts"
    channels: int = 16
    cells: int = 8
    batch_size: int = 16
    resolution: int = 32
    runs: int = 5
    device: str = "cpu"


def main(settings: Phases) -> None:
    torch.manual_seed(0)
    method, space, device = METHODS[settings.method](), space_by_name(settings.space), torch.device(settings.device)
    net = build_supernet(space, 10, settings.channels, settings.cells, method.partial_channels, 3, False).to(device)
    w = dict(net.named_parameters())
    alpha = draw_logits(space, method.edge_normalisation, 0, device)
    images = torch.randn(settings.batch_size, 3, settings.resolution, settings.resolution, device=device)
    labels = torch.randint(10, (settings.batch_size,), device=device)

    def loss(w_needed: bool, alpha_needed: bool) -> Tensor:
        params = w if w_needed else {name: p.detach() for name, p in w.items()}
        logits = alpha if alpha_needed else {name: a.detach() for name, a in alpha.items()}
        return F.cross_entropy(functional_call(net, params, (images, relax(method, space, logits))), labels)

    def step(w_needed: bool, alpha_needed: bool) -> Callable[[], tuple[Tensor, ...]]:
        wanted = [*(w.values() if w_needed else ()), *(alpha.values() if alpha_needed else ())]
        return lambda: torch.autograd.grad(loss(w_needed, alpha_needed), wanted, allow_unused=True)

    contenders = {name: step(*needed) for name, needed in NEEDED.items()}
    both, of_alpha, of_w = (contender() for contender in contenders.values())
    assert all(torch.equal(x, y) for x, y in zip(both[: len(w)], of_w, strict=True) if x is not None)
    assert all(torch.equal(x, y) for x, y in zip(both[len(w) :], of_alpha, strict=True))
    leaves = [*w.values(), *alpha.values()]
    num_bytes = {name: kept_bytes(partial(loss, *needed), leaves) for name, needed in NEEDED.items()}
    seconds = medians(clock_of(device), contenders, settings.runs)

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, commit {commit.strip()}")
    print(settings)
    print("gradients equal bit for bit\n")
    print("| step | ms | ratio | saved MB | ratio |\n| --- | ---: | ---: | ---: | ---: |")
    for name in contenders:
        ms, megabytes = 1e3 * seconds[name], num_bytes[name] / 1e6
        time_ratio, byte_ratio = seconds[name] / seconds["both"], num_bytes[name] / num_bytes["both"]
        print(f"| {name} | {ms:.0f} | {time_ratio:.2f} | {megabytes:.0f} | {byte_ratio:.2f} |")


if __name__ == "__main__":
    main(tyro.cli(Phases))
