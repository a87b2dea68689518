"""Compiles what the steps of a search launch on a GPU before the first one, side by side."""

from collections.abc import Callable

import torch
from torch import Tensor

from fastnas.bilevel.problem import Tensors, detach_all
from fastnas.bilevel.products import Product
from fastnas.data import Batch
from fastnas.engine.run import Run
from fastnas.engine.step import batch_loss
from fastnas_kernels.backend import backend_for
from fastnas_kernels.compilation import compiling_ahead


def compile_ahead(run: Run, on_compiled: Callable[[int, int], None] | None = None) -> None:
    """Compile the kernels of a weight step and of an alpha step, second derivatives included; changes nothing of the
    search."""
    if run.device.type != "cuda" or backend_for(run.device) != "triton":
        return
    launch_all(run, on_compiled)


def _phases(run: Run) -> list[tuple[str, Tensors, Tensors]]:
    """What a step differentiates: what is held enters it detached, and other kernels serve then."""
    w, alpha = run.state.w, run.state.alpha
    if run.method.update_schedule.joint:
        return [("alpha", w, alpha)]
    return [("weights", w, detach_all(alpha)), ("alpha", detach_all(w), alpha)]


def launch_all(run: Run, on_compiled: Callable[[int, int], None] | None) -> None:
    """A forward and a backward pass of each kind, in which cells compile and compute nothing."""
    state, data = run.state, run.data
    kept = [(buffer, buffer.clone()) for buffer in state.supernet.buffers()]
    images = torch.zeros(run.config.batch_size // run.ranks.size, data.channels, *data.resolution, device=run.device)
    loss = batch_loss(run, Batch(images, torch.zeros(len(images), dtype=torch.long, device=run.device)))
    with compiling_ahead(on_compiled):
        for phase, w, alpha in _phases(run):
            value, _ = loss(w, run.sampler(phase)(alpha).mix)
            variables = [x for x in (*w.values(), *alpha.values()) if x.requires_grad]
            if value.requires_grad:
                torch.autograd.grad(value, variables, allow_unused=True)
        product = getattr(run.method.hypergradient, "product", None)
        if product is not None:
            launch_product(run, loss, product)
    with torch.no_grad():
        for buffer, before in kept:
            buffer.copy_(before)


def launch_product(run: Run, loss: Callable[..., tuple[Tensor, ...]], product: Product) -> None:
    """The product with second derivatives that a hypergradient takes: of the weights, rows of alpha."""
    w, alpha = ({f"{kind} {n}": x for n, x in of.items()} for kind, of in (("w", run.state.w), ("a", run.state.alpha)))

    def inner(at: Tensors) -> Tensor:
        of_w, of_alpha = ({name[2:]: at[name] for name in names} for names in (w, alpha))
        return loss(of_w, run.sampler("alpha")(of_alpha).mix)[0]

    at = detach_all(w) | detach_all(alpha)
    product(inner, at, {name: torch.ones_like(x) for name, x in detach_all(w).items()}, [*alpha], allow_unused=True)
