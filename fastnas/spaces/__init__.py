"""Genotypes and the spaces that they come from: plain frozen data, no tensors."""

from fastnas.spaces.cell_space import (
    DARTS,
    DSO,
    DSO_FULL,
    GDAS_FRC,
    NASBENCH201,
    PROXYLESS,
    S1,
    S2,
    S3,
    S4,
    SHARPDARTS,
    SHARPERDARTS,
    CellSpace,
    dso,
    proxyless,
)
from fastnas.spaces.formats import genotype_to_json, genotype_to_text, read_genotype
from fastnas.spaces.genotype import Genotype
from fastnas.spaces.registry import SPACES, list_spaces, register_space, space_by_name
from fastnas.spaces.sampling import random_genotype

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
    "Genotype",
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
