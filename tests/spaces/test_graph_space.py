from collections import Counter

import pytest

from fastnas.mechanisms.derivation import every_edge, nonzero
from fastnas.spaces.cell_space import DARTS
from fastnas.spaces.formats import genotype_to_text, parse_genotype, space_from_json, space_to_json
from fastnas.spaces.graph_space import DSO, DSO_FULL, FullDag, dso, find_living_operations
from fastnas.spaces.registry import space_by_name
from fastnas.spaces.sampling import random_genotype

NODES = FullDag(("normal",), levels=2).nodes_of("normal")  # eight operations and the output, the ninth state
OF_FIRST = [[]] * 4


def test_a_block_has_124_connections_and_a_reduction_two():
    by_level = Counter()
    dag = DSO.dag
    for node, target in zip(dag.nodes_of("normal"), DSO.targets, strict=False):
        by_level[node.level] += len(DSO.rows(target))
    assert by_level == {1: 0, 2: 20, 3: 36, 4: 52, 5: 16}
    assert len(DSO.edges) == 124 + 2 * 2
    assert len(DSO_FULL.edges) == 3 * 8 * 124 + 2 * 2


def test_an_operation_reads_the_input_and_all_lower_levels_and_the_output_reads_all_operations():
    assert [list(DSO.sources(target)) for target in (1, 5, 9, 13)] == [[], [*range(5)], [*range(9)], [*range(13)]]
    assert list(DSO.sources(17)) == [*range(1, 17)]
    first = dso(1)
    assert first.dag.blocks == ("normal", "reduction", "normal", "reduction", "normal")
    assert list(first.sources(20)) == [18, 19]  # the output of the first reduction, whose input is the state 17
    assert list(first.sources(25)) == [*range(20, 25)]  # an operation of the second block's second level


def test_only_operations_live_that_something_enters_and_something_reads():
    everything = [[], [], [], [], *[[0, 1, 2, 3, 4]] * 4, [*range(1, 9)]]
    assert find_living_operations(NODES, everything) == set(range(1, 9))
    unread = [*OF_FIRST, [1], [2], [], [3], [5]]  # 5 reads 1, the output reads 5
    assert find_living_operations(NODES, unread) == {1, 5}
    starved = [*OF_FIRST, [], [1], [0], [], [5, 7, 8]]  # nothing enters 5 and 8
    assert find_living_operations(NODES, starved) == {7}
    assert find_living_operations(NODES, [*OF_FIRST, [1], [1], [1], [1], []]) == set()
    deep = FullDag(("normal",), levels=3).nodes_of("normal")
    kept = [*OF_FIRST, [2], [], [], [], [5], [6], [], [], [9, 10]]  # 10 reads 6, which nothing enters
    assert find_living_operations(deep, kept) == {2, 5, 9}


def test_the_depth_of_a_full_graph_is_chosen_by_cells_where_its_blocks_choose_for_themselves():
    assert DSO.with_depth(5) == DSO
    assert DSO_FULL.with_depth(2) == dso(2) == space_by_name("dso_full_2")
    assert (dso(2).depth, DSO_FULL.depth, DSO.depth, DARTS.depth) == (2, 8, None, None)
    with pytest.raises(ValueError, match="cells must be 2, the blocks in a stage of dso_full_2 that have choices"):
        dso(2).with_depth(3)


@pytest.mark.parametrize("space", [DSO, dso(2)], ids=lambda space: space.name)
def test_graphs_and_genotypes_come_back_from_their_files(space):
    assert space_from_json(space_to_json(space)) == space
    genotype = random_genotype(space, 0)
    assert parse_genotype(genotype_to_text(genotype)) == genotype


def test_a_random_graph_lets_the_image_through_every_reduction():
    for seed in range(30):
        nodes = random_genotype(DSO, seed).normal.nodes
        for span in DSO.dag.spans[1:]:
            assert any(gene.primitive == "connect" for gene in nodes[span[-1]])


def test_a_connection_is_derived_where_its_scale_is_not_zero_whatever_none_has():
    mix = [[0.9, 0.0]] * 128
    mix[3] = [0.9, 1e-12]
    derived = nonzero(DSO, {"normal": mix})
    DSO.check(derived)
    assert derived.normal.count("connect") == 1
    assert every_edge(DSO, {"normal": mix}).normal.count("connect") == 0


def test_graphs_that_are_none_are_refused():
    with pytest.raises(ValueError, match="FullDag: blocks must be names, each normal or reduction, got"):
        FullDag(("strange",))
    with pytest.raises(ValueError, match="dso: blocks must be at least 1 in a stage, got 0"):
        dso(0)
