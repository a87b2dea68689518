"""Averaged coefficients."""

from fastnas.methods import darts
from fastnas.selection import derive_from_average
from fastnas.spaces import NASBENCH201

CONVOLUTION, POOL = [0.1, 0.1, 0.1, 0.6, 0.1], [0.1, 0.1, 0.1, 0.3, 0.4]


def record(row, stage=0):
    return {"mix": {"normal": [row] * 6}, "edge_mix": {}, "stage": stage}


def primitives(history):
    genotype = derive_from_average(NASBENCH201, darts(), history)
    return {gene.primitive for node in genotype.normal.nodes for gene in node}


def test_one_epoch_does_not_undo_what_the_others_agreed_on():
    assert primitives([record(CONVOLUTION)] * 3 + [record(POOL)]) == {"nor_conv_3x3"}
    assert primitives([record(POOL)]) == {"avg_pool_3x3"}


def test_a_candidate_that_was_pruned_does_not_come_back():
    before, pruned = [0.0, 0.0, 0.0, 0.4, 0.6], [0.0, 0.0, 0.0, 0.4, 0.0]
    assert primitives([record(before)] * 9 + [record(pruned)]) == {"nor_conv_3x3"}


def test_searches_count_alike_however_many_epochs_they_have():
    short, long = [record(CONVOLUTION)], [record(POOL)] * 9
    genotype = derive_from_average(NASBENCH201, darts(), short, long)  # 0.45 against 0.25
    assert {gene.primitive for node in genotype.normal.nodes for gene in node} == {"nor_conv_3x3"}


def test_the_first_half_and_earlier_stages_do_not_count():
    assert primitives([record(CONVOLUTION)] * 2 + [record(POOL)] * 2) == {"avg_pool_3x3"}
    assert primitives([record(CONVOLUTION, 0)] * 3 + [record(POOL, 1)]) == {"avg_pool_3x3"}
