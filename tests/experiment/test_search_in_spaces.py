"""The loop in spaces whose edges differ, or whose candidates are random."""

from dataclasses import replace

import pytest
import torch

from fastnas.costs.limit import DeriveWithin
from fastnas.costs.tables import NetworkSize, derived_cost, parameter_table
from fastnas.data import load_data
from fastnas.engine import search
from fastnas.mechanisms.pruning import Stage
from fastnas.methods.library import darts, p_darts, pc_darts
from fastnas.spaces.cell_space import S1, S3, S4
from fastnas.supernet.supernets import DartsSupernet
from fastnas.training.config import SearchConfig

DIGITS = load_data("digits")
TINY = SearchConfig(channels=4, cells=3, epochs=1, warmup_epochs=0, batch_size=32, train_fraction=0.1, device="cpu")


@pytest.mark.parametrize("space", [S1, S3, S4], ids=lambda space: space.name)
def test_a_search_ends_in_an_architecture_of_its_space_and_repeats_bit_for_bit(space):
    first, second = (search(space, darts(), DIGITS, TINY) for _ in range(2))
    space.check(first.genotype)
    assert first.genotype == second.genotype
    assert all(torch.equal(first.alpha[name], second.alpha[name]) for name in first.alpha)
    assert all(torch.isfinite(alpha).all() for alpha in first.alpha.values())


def test_p_darts_searches_a_space_without_skip_connections():
    shallow = replace(p_darts(), stages=(Stage(), Stage(1, 1)))
    result = search(S4, shallow, DIGITS, replace(TINY, channels=2, epochs=2))
    S4.check(result.genotype)
    assert [record["stage"] for record in result.history] == [0, 1]


def test_candidates_that_an_edge_does_not_have_are_never_mixed():
    for method in (darts(), pc_darts(k=2)):
        record = search(S1, method, DIGITS, TINY).history[-1]
        for cell_type in S1.cell_types:
            mix, alive = torch.tensor(record["mix"][cell_type]), torch.tensor(S1.alive(cell_type))
            assert (mix[~alive] == 0).all()
            assert (mix[alive] > 0).all()
            assert torch.allclose(mix.sum(1), torch.ones(14), atol=1e-6)  # float32 softmax


def test_noise_is_new_in_every_step_and_the_same_in_a_run_that_is_repeated():
    class Recording(DartsSupernet):
        def forward(self, images, mix):
            if self.training:
                seeds.append(mix.seed)
            return super().forward(images, mix)

    runs = []
    for seed in (0, 0, 1):
        seeds = []
        with torch.random.fork_rng():
            torch.manual_seed(0)
            supernet = Recording(len(DIGITS.classes), 4, 3, 1, DIGITS.channels, False, S4)
        search(supernet, darts(), DIGITS, replace(TINY, seed=seed))
        runs.append(seeds)
    first, second, other = runs
    assert first == second
    steps = {seed for seed in first if seed}  # 0 is the seed of the measurements at the end of an epoch
    assert len(steps) >= 2  # one epoch of two steps
    assert not steps & set(other) - {0}


def test_a_search_under_a_limit_ends_within_it():
    size = NetworkSize(channels=8, cells=5, resolution=8, image_channels=1)
    table = parameter_table(S1, size)
    with pytest.raises(ValueError, match="cheapest") as caught:
        DeriveWithin(table, 1)
    cheapest = int("".join(c for c in str(caught.value).split(" parameters")[0].split("costs,")[1] if c.isdigit()))
    method = replace(darts(), derivation=DeriveWithin(table, cheapest + 100))
    result = search(S1, method, DIGITS, TINY)
    assert cheapest <= derived_cost(result.genotype, table) <= cheapest + 100
    network = size.build(result.genotype)
    assert sum(p.numel() for p in network.parameters()) <= cheapest + 100
