"""From alpha to the coefficients that a supernet mixes with."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from fastnas.bilevel.problem import Tensors
from fastnas.engine.drawn import draw_on_device
from fastnas.mechanisms.draw import Categorical, Sample
from fastnas.mechanisms.pruning import Alive
from fastnas.mechanisms.relaxation import edge_softmax
from fastnas.methods.method import Method
from fastnas.seeds import Seed, StepSeed, stream
from fastnas.spaces.space import Space
from fastnas.supernet.architecture import by_cell_type, make_input_mask, mark_edges, mark_most_probable
from fastnas.supernet.mix import Columns, EdgeNoise, Mix

ALL: Mapping[str, Alive] = MappingProxyType({})


@lru_cache(maxsize=64)
def _mask(alive: Alive, device: torch.device) -> Tensor | None:
    """``alive`` on the device, ``[E, K]``; ``None`` where nothing is dead."""
    return None if all(map(all, alive)) else torch.tensor(alive, device=device)


def masks(alive: Mapping[str, Alive], device: torch.device) -> dict[str, Tensor]:
    """The masks of the cell types in which something is dead."""
    found = {name: _mask(rows, device) for name, rows in alive.items()}
    return {name: mask for name, mask in found.items() if mask is not None}


def living_logits(alpha: Tensors, alive: Mapping[str, Alive] = ALL) -> dict[str, Tensor]:
    """The logits ``[E, K]`` of every cell type, minus infinity for what is not alive."""
    living = masks(alive, next(iter(alpha.values())).device)

    def mask_dead(name: str, alpha_EK: Tensor) -> Tensor:
        return alpha_EK if name not in living else alpha_EK.masked_fill(~living[name], -torch.inf)

    return {name: mask_dead(name, a) for name, a in by_cell_type(alpha, "alpha", lambda x: x).items()}


def relax(method: Method, space: Space, alpha: Tensors, alive: Mapping[str, Alive] = ALL, tau: float = 1.0) -> Mix:
    """The coefficients of ``method`` at the logits ``alpha``, nothing drawn: what an architecture is derived from.

    Args:
        method: Gives the relaxation; its temperature counts only if the method draws nothing.
        space: Of the logits.
        alpha: ``alpha.<cell type>`` ``[E, K]``, ``beta.<cell type>`` ``[E]`` if edges have logits, and
            ``inputs.<cell type>`` ``[B, S]`` if sets of inputs have: then the edges of the best set of each node have
            the coefficient one, and the others zero.
        alive: What is alive in each cell type; one that is missing is whole.
        tau: Temperature.
    """
    tau = tau if method.draw is None else 1.0
    living = masks(alive, next(iter(alpha.values())).device)
    candidates = {
        name: method.relaxation(alpha_EK, living.get(name), tau)
        for name, alpha_EK in by_cell_type(alpha, "alpha", lambda x: x).items()
    }
    best = by_cell_type(alpha, "inputs", lambda logits_BS: mark_most_probable(space, logits_BS))
    return Mix(candidates, _edges(space, alpha) | best, {name: _columns(alive[name]) for name in living})


def with_skips(space: Space, mix: Mix, added: float) -> Mix:
    """``mix`` with ``added`` on the coefficient of every skip connection that is alive: the auxiliary skip connections
    of DARTS- (Chu et al., 2021, arXiv:2009.01027, section 3.2)."""
    if added == 0:
        return mix
    moved = {
        name: mix_EK + added * _skips(space, mix.alive.get(name), mix_EK.device).to(mix_EK.dtype)
        for name, mix_EK in mix.candidates.items()
    }
    return mix._replace(candidates=moved)


@lru_cache(maxsize=64)
def _skips(space: Space, alive: Columns | None, device: torch.device) -> Tensor:
    """One where a skip connection is alive, ``[E, K]``; on the device, once for what is alive."""
    skip, rows = space.primitives.index("skip_connect"), range(len(space.edges))
    living = [alive is None or skip in alive[row] for row in rows]
    return torch.tensor([[k == skip and on for k in range(len(space.primitives))] for on in living], device=device)


def _edges(space: Space, alpha: Tensors) -> dict[str, Tensor]:
    rows = [space.rows(space.num_inputs + node) for node in range(space.num_nodes)]
    return by_cell_type(alpha, "beta", lambda beta_E: edge_softmax(beta_E, rows))


def _columns(rows: Alive | list[list[bool]]) -> Columns:
    return tuple(tuple(k for k, on in enumerate(row) if on) for row in rows)


class Drawn(NamedTuple):
    """The coefficients of a step.

    Args:
        mix: For the supernet.
        log_probability: Of the choice, if there is one.
        reached: The candidates of each cell type that alpha's gradient may come from; one that is missing: all.
    """

    mix: Mix
    log_probability: Tensor | None
    reached: Mapping[str, Tensor]


def _only(sample: Sample, read_E: Tensor) -> Sample:
    """The sample without the edges that are not read; what was drawn on them does not count."""
    on_E1 = read_E[:, None] > 0
    on = None if sample.on is None else sample.on & on_E1
    reached = None if sample.reached is None else sample.reached & on_E1
    log_p_E = None if sample.log_probability is None else sample.log_probability * read_E
    return sample._replace(mix=sample.mix * read_E[:, None], on=on, reached=reached, log_probability=log_p_E)


@dataclass(frozen=True)
class Sampler:
    """Makes the coefficients of one step; calling it twice gives the same.

    Args:
        method: What to draw.
        space: Of the logits.
        alive: What is alive.
        tau: Temperature.
        seed: Decides the draws and the noise of this step.
        noise: Rates of what is dropped: ``(drop_path, skip_dropout)``.
        auxiliary_skip: What is added to the coefficients of skip connections.
        for_weights: Whether alpha is held: then only candidates run whose coefficient is not zero.
        rank: Of this process. All draw the same candidates; what is drawn for single images differs among them.
        on_device: Whether kernels pick what runs on the device, so that the host reads no draw.
    """

    method: Method
    space: Space
    alive: Mapping[str, Alive]
    tau: float
    seed: Seed
    noise: tuple[float, float] = (0.0, 0.0)
    auxiliary_skip: float = 0.0
    for_weights: bool = False
    rank: int = 0
    on_device: bool = False

    def __call__(self, alpha: Tensors, index: int = 0) -> Drawn:
        """The coefficients at ``alpha``; ``index`` chooses one of independent draws."""
        drawn = self._without_auxiliary(alpha, index)
        return drawn._replace(mix=with_skips(self.space, drawn.mix, self.auxiliary_skip))

    def _without_auxiliary(self, alpha: Tensors, index: int) -> Drawn:
        own = (self.rank,) if self.rank else ()
        known = 0 if isinstance(self.seed, StepSeed) else self.seed  # a graph holds no primitive that reads it
        noise = EdgeNoise(*self.noise, stream(known, "noise", *own)) if any(self.noise) else None
        seed = stream(known, "images", *own) if own else known
        own_draw = self.method.weight_draw if self.for_weights else None
        draw = self.method.draw if own_draw is None else own_draw
        if draw is None:
            mix = relax(self.method, self.space, alpha, self.alive, self.tau)
            return Drawn(mix._replace(noise=noise, seed=seed), None, {})
        living = masks(self.alive, next(iter(alpha.values())).device)
        samples = {
            name: draw(alpha_EK, living.get(name), self.tau, stream(self.seed, f"draw {name}", index))
            for name, alpha_EK in by_cell_type(alpha, "alpha", lambda x: x).items()
        }
        read = {name: self._read(alpha, name, index) for name in by_cell_type(alpha, "inputs", lambda x: x)}
        samples = {name: s if name not in read else _only(s, read[name].mix) for name, s in samples.items()}
        runs = {name: s.on if self.for_weights else s.reached for name, s in samples.items()}
        runs = {name: on for name, on in runs.items() if on is not None}
        paths = 1 if self.for_weights else draw.paths
        stay = runs if self.on_device and paths is not None else {}
        mix = Mix(
            {name: sample.mix for name, sample in samples.items()},
            _edges(self.space, alpha),
            {} if stay else self._read_by_host(samples, runs),
            {name: sample.offset for name, sample in samples.items() if sample.offset is not None},
            noise,
            seed,
            drawn={name: draw_on_device(self.space, name, on, paths or 0) for name, on in stay.items()},
        )
        logs = [s.log_probability.sum() for s in samples.values() if s.log_probability is not None]
        logs += [s.log_probability.sum() for s in read.values() if s.log_probability is not None]
        reached = {name: sample.reached for name, sample in samples.items() if sample.reached is not None}
        return Drawn(mix, torch.stack(logs).sum() if logs else None, reached)

    def _read(self, alpha: Tensors, name: str, index: int) -> Sample:
        """Which edges are read, ``[E]`` of zeros and ones, and the log-probability of that for each node."""
        logits_BS = alpha[f"inputs.{name}"]
        mask_BS = make_input_mask(self.space, logits_BS.device)
        sample = Categorical()(logits_BS, mask_BS, self.tau, stream(self.seed, f"inputs {name}", index))
        return sample._replace(mix=mark_edges(self.space, sample.mix))

    def _read_by_host(self, names: Iterable[str], runs: Mapping[str, Tensor]) -> dict[str, Columns]:
        """What runs in each cell type; the host waits here, once for a cell type, where something was drawn."""
        found = {name: _columns(on.tolist()) for name, on in runs.items()}
        pruned = {name: self.alive[name] for name in names if name not in runs and name in self.alive}
        return found | {name: _columns(rows) for name, rows in pruned.items() if not all(map(all, rows))}
