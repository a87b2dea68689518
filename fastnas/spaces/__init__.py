"""Genotypes and the spaces that they come from: plain frozen data, no tensors."""

from fastnas.spaces.cell_space import (
    DARTS,
    GDAS_FRC,
    NASBENCH201,
    S1,
    S2,
    S3,
    S4,
    SHARPDARTS,
    SHARPERDARTS,
    CellSpace,
)
from fastnas.spaces.chain_space import PROXYLESS, ChainSpace, proxyless
from fastnas.spaces.formats import genotype_to_json, genotype_to_text, read_genotype
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.graph_space import DSO, DSO_FULL, GraphSpace, dso
from fastnas.spaces.registry import SPACES, list_spaces, register_space, space_by_name
from fastnas.spaces.sampling import random_genotype
from fastnas.spaces.space import Space

__all__ = [
    "DARTS",
    "DSO",
    "DSO_FULL",
    "GDAS_FRC",
    "NASBENCH201",
    "PROXYLESS",
    "S1",
    "S2",
    "S3",
    "S4",
    "SHARPDARTS",
    "SHARPERDARTS",
    "SPACES",
    "CellSpace",
    "ChainSpace",
    "Genotype",
    "GraphSpace",
    "Space",
    "dso",
    "genotype_to_json",
    "genotype_to_text",
    "list_spaces",
    "proxyless",
    "random_genotype",
    "read_genotype",
    "register_space",
    "space_by_name",
]
