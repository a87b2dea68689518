from collections import Counter
from dataclasses import replace

import pytest
import torch

from fastnas.engine.coefficients import Sampler, relax
from fastnas.methods.library import METHODS, parsec
from fastnas.spaces.cell_space import DARTS, NASBENCH201
from fastnas.supernet.architecture import draw_logits, list_input_sets, make_input_mask, mark_edges, mark_most_probable

CPU = torch.device("cpu")
ALIVE = {cell_type: DARTS.alive(cell_type) for cell_type in DARTS.cell_types}


def logits_of(space, **scale):
    return draw_logits(space, False, 0, CPU, with_inputs=True, **scale)


def test_the_nodes_of_darts_choose_between_one_three_six_and_ten_pairs_of_inputs():
    sets = list_input_sets(DARTS)
    assert [len(of_node) for of_node in sets] == [1, 3, 6, 10]
    assert sets[1] == ((2, 3), (2, 4), (3, 4))  # rows of alpha of the edges into the second node
    assert [int(row.sum()) for row in make_input_mask(DARTS, CPU)] == [1, 3, 6, 10]
    assert logits_of(DARTS)["inputs.normal"].shape == (4, 10)


def test_nothing_is_drawn_where_all_edges_are_kept():
    assert list_input_sets(NASBENCH201) == ()
    assert set(logits_of(NASBENCH201)) == {"alpha.normal"}


def test_a_chosen_set_reads_its_edges_and_no_others():
    choice = torch.zeros(4, 10)
    choice[[0, 1, 2, 3], [0, 2, 0, 9]] = 1
    assert mark_edges(DARTS, choice).nonzero().flatten().tolist() == [0, 1, 3, 4, 5, 6, 12, 13]


def test_the_best_set_ignores_entries_that_stand_for_none_and_breaks_ties_by_order():
    logits = torch.zeros(4, 10)
    logits[:, 9] = 5.0  # a set for the last node alone
    assert mark_most_probable(DARTS, logits).nonzero().flatten().tolist() == [0, 1, 2, 3, 5, 6, 12, 13]


def test_parsec_mixes_two_inputs_a_node_and_its_log_probability_is_that_of_what_is_read():
    alpha = {name: a.detach().requires_grad_() for name, a in logits_of(DARTS, scale=1.0).items()}
    sampler = Sampler(parsec(), DARTS, ALIVE, 1.0, seed=5)
    drawn = sampler(alpha)
    expected = 0.0
    for cell_type in DARTS.cell_types:
        mix, log_p = drawn.mix.candidates[cell_type], alpha[f"alpha.{cell_type}"].log_softmax(-1)
        read = mix.sum(-1)
        assert [int(read[list(DARTS.rows(target))].sum()) for target in DARTS.targets] == [2, 2, 2, 2]
        assert [len(columns) for columns in drawn.mix.alive[cell_type]] == read.int().tolist()
        expected += (log_p * mix).sum()
        inputs = alpha[f"inputs.{cell_type}"].masked_fill(~make_input_mask(DARTS, CPU), -torch.inf).log_softmax(-1)
        for node, sets in enumerate(list_input_sets(DARTS)):
            expected += inputs[node, [all(read[list(rows)]) for rows in sets].index(True)]
    torch.testing.assert_close(drawn.log_probability, expected, rtol=1e-5, atol=0)  # float32
    gradients = torch.autograd.grad(drawn.log_probability, list(alpha.values()))
    assert all((gradient != 0).any() for gradient in gradients)
    dropped = drawn.mix.candidates["normal"].sum(-1) == 0
    assert not gradients[0][dropped].any()  # what was drawn there made no difference


def test_pairs_are_drawn_as_often_as_their_probabilities_say():
    alpha = {name: a.detach() for name, a in logits_of(DARTS).items()}
    alpha["inputs.normal"] = torch.linspace(0, 2, 10).expand(4, 10)
    counts = Counter()
    for i in range(400):
        read = Sampler(parsec(), DARTS, ALIVE, 1.0, seed=i)(alpha).mix.candidates["normal"].sum(-1)
        counts[tuple(read[9:].nonzero().flatten().tolist())] += 1
    p = torch.linspace(0, 2, 10).softmax(0).tolist()
    observed = [counts[tuple(row - 9 for row in rows)] for rows in list_input_sets(DARTS)[3]]
    statistic = sum((n - 400 * q) ** 2 / (400 * q) for n, q in zip(observed, p, strict=True))
    assert statistic < 27.9  # the 0.1 % quantile of chi-square with nine degrees of freedom; the seed is fixed


def test_the_derived_architecture_is_the_mode_of_the_distribution():
    alpha = {name: a.detach() for name, a in logits_of(DARTS, scale=1.0).items()}
    mix = relax(parsec(), DARTS, alpha)
    candidates, edges = ({t: x.tolist() for t, x in part.items()} for part in (mix.candidates, mix.edges))
    genotype = parsec().derivation(DARTS, candidates, edges)
    for node, sets in enumerate(list_input_sets(DARTS)):
        best = sets[int(alpha["inputs.normal"][node, : len(sets)].argmax())]
        rows = DARTS.rows(DARTS.num_inputs + node)
        assert sorted(rows[gene.source] for gene in genotype.normal.nodes[node]) == list(best)
        for gene in genotype.normal.nodes[node]:
            op = alpha["alpha.normal"][rows[gene.source], 1:].argmax()
            assert gene.primitive == DARTS.primitives[1 + int(op)]


def test_a_choice_of_inputs_needs_an_estimator_that_sees_it():
    with pytest.raises(ValueError, match=r"joint_inputs does not work with hypergradient=FirstOrder\(\)"):
        replace(METHODS["darts"](), joint_inputs=True)
    with pytest.raises(ValueError, match="joint_inputs does not work with partial_channels or edge_normalisation"):
        replace(METHODS["parsec"](), partial_channels=2)
    assert replace(METHODS["proxyless_nas_r"](), joint_inputs=True).joint_inputs
