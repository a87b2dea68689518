"""The chain as a space: its size is that of the paper, and genotypes of any depth are read back."""

from dataclasses import replace
from math import prod

import numpy as np
import pytest

from fastnas.mechanisms.derivation import derive
from fastnas.spaces.cell_space import DARTS
from fastnas.spaces.chain_space import PROXYLESS, proxyless
from fastnas.spaces.formats import (
    genotype_from_json,
    genotype_to_json,
    genotype_to_text,
    parse_genotype,
    read_genotype,
    space_from_json,
    space_to_json,
)
from fastnas.spaces.genotype import CellGenotype, Gene, Genotype
from fastnas.spaces.registry import space_by_name
from fastnas.spaces.sampling import random_genotype


def test_the_published_chain_has_21_blocks_141_candidates_and_2e17_architectures():
    choices = [len(PROXYLESS.candidates("normal", row)) for row in range(len(PROXYLESS.edges))]
    assert (len(choices), sum(choices)) == (21, 141)
    assert prod(choices) == 6**6 * 7**15
    assert sum(map(sum, PROXYLESS.alive("normal"))) == 141
    assert [row for row, choice in enumerate(choices) if choice == 6] == [0, 4, 8, 12, 16, 20]  # heads of the stages


def test_every_block_reads_the_one_before_it():
    space = proxyless(1)
    assert space.edges == ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6))
    genotype = random_genotype(space, 0)
    assert [gene.source for genes in genotype.normal.nodes for gene in genes] == [0, 1, 2, 3, 4, 5]
    skipping = ((Gene("mbconv_3x3_e3", 0),), (Gene("mbconv_3x3_e3", 0),), *genotype.normal.nodes[2:])
    with pytest.raises(ValueError, match=r"normal node 2 must read an earlier state, in \[1, 2\), got 0"):
        space.check(Genotype(space.name, CellGenotype(skipping, space.concat)))


def test_the_first_block_of_a_stage_cannot_be_left_out():
    genes = [(Gene("none", row),) for row in range(21)]
    with pytest.raises(ValueError, match=r"normal node 1 must use one of the primitives mbconv_3x3_e3, .*, got 'none'"):
        PROXYLESS.check(Genotype("proxyless", CellGenotype(tuple(genes), (21,))))


@pytest.mark.parametrize("blocks", [1, 2, 4, 11])
def test_genotypes_and_spaces_of_any_depth_come_back_from_their_files(blocks):
    space = proxyless(blocks)
    assert space_by_name(space.name) == space
    assert space_from_json(space_to_json(space)) == space
    genotype = random_genotype(space, 1)
    assert genotype_from_json(genotype_to_json(genotype)) == genotype
    assert parse_genotype(genotype_to_text(genotype)) == genotype


def test_a_file_of_a_space_from_before_there_were_chains_is_read():
    content = {key: value for key, value in space_to_json(DARTS).items() if key != "stages"}
    assert space_from_json(content) == DARTS


def test_every_block_derives_its_best_candidate_and_none_only_where_it_may():
    mix = np.random.default_rng(0).random((21, 7))
    mix[:, 6] = 2  # ``none`` is best everywhere
    mix[5, 3] = 3
    genotype = derive(PROXYLESS, {"normal": mix.tolist()})
    PROXYLESS.check(genotype)
    for row, ((primitive, source),) in enumerate(genotype.normal.nodes):
        assert source == row
        heads, best = row in (0, 4, 8, 12, 16, 20), PROXYLESS.primitives[int(mix[row, :6].argmax())]
        assert primitive == (best if heads or row == 5 else "none")


def test_the_published_networks_are_genotypes_of_the_space():
    for name in ("PROXYLESS_CPU", "PROXYLESS_GPU", "PROXYLESS_MOBILE"):
        PROXYLESS.check(read_genotype(name))
    assert read_genotype("PROXYLESS_GPU").normal.count("none") == 8


def test_the_depth_of_a_chain_is_chosen_by_cells_and_of_others_it_is_no_matter():
    assert PROXYLESS.with_depth(2) == proxyless(2)
    assert PROXYLESS.with_depth(4) is not None
    assert DARTS.with_depth(17) is DARTS
    assert proxyless(2).with_depth(2) == proxyless(2)
    with pytest.raises(ValueError, match=r"space 'proxyless_2': cells must be 2, the blocks in a stage .*, got 3"):
        proxyless(2).with_depth(3)


def test_chains_that_are_none_are_refused():
    with pytest.raises(ValueError, match="proxyless: blocks must be at least 1 in a stage, got 0"):
        proxyless(0)
    with pytest.raises(ValueError, match="stages must be numbers of blocks, each at least 1, got"):
        replace(PROXYLESS, stages=(21, 0))
    with pytest.raises(ValueError, match=r"edge_primitives must have lengths \[20\], got \[21\]"):
        replace(PROXYLESS, stages=(20,))
    with pytest.raises(ValueError, match="name must be a registered space"):
        space_by_name("proxyless_0")
