import torch

from fastnas.spaces.cell_space import DARTS, NASBENCH201
from fastnas.supernet.mix import Mix, split_by_node
from tests.helpers import uniform_mix


def test_every_node_gets_the_rows_of_its_edges_without_none():
    alpha = torch.arange(14 * 8.0).view(14, 8)
    nodes = split_by_node(DARTS, Mix({"normal": alpha}, {}), "normal")
    assert [tuple(node.candidates.shape) for node in nodes] == [(14,), (21,), (28,), (35,)]
    assert all(node.edges is None for node in nodes)
    assert torch.equal(torch.cat([node.candidates for node in nodes]), alpha[:, 1:].flatten())


def test_edge_coefficients_multiply_all_candidates_of_their_edge():
    alpha, edges = torch.rand(6, 5), torch.rand(6)
    nodes = split_by_node(NASBENCH201, Mix({"normal": alpha}, {"normal": edges}), "normal")
    assert torch.equal(torch.cat([node.edges for node in nodes]), edges)
    assert torch.equal(torch.cat([node.candidates for node in nodes]), (alpha * edges[:, None])[:, 1:].flatten())


def test_a_search_begins_with_an_eighth_of_every_candidate():
    mix = uniform_mix(DARTS)
    assert set(mix.candidates) == {"normal", "reduction"}
    assert all(torch.equal(a, torch.full((14, 8), 0.125)) for a in mix.candidates.values())
