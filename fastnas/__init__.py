"""fastnas: the DARTS family of differentiable architecture search in one fast, exact engine."""

from fastnas.check import check
from fastnas.method import Method
from fastnas.methods import (
    asap,
    darts,
    darts_2nd,
    darts_plus,
    dso_nas,
    gdas,
    nasp,
    p_darts,
    parsec,
    pc_darts,
    proxyless_nas,
    robust_darts,
    sharp_darts,
    smooth_darts_adv,
    smooth_darts_rs,
    snas,
)
from fastnas.search import SearchResult, search
from fastnas.space.cell_space import DARTS, NASBENCH201
from fastnas.space.formats import read_genotype
from fastnas.space.genotype import Genotype
from fastnas.train.config import RetrainConfig, SearchConfig
from fastnas.train.retrain import RetrainResult, retrain

__all__ = [
    "DARTS",
    "NASBENCH201",
    "Genotype",
    "Method",
    "RetrainConfig",
    "RetrainResult",
    "SearchConfig",
    "SearchResult",
    "asap",
    "check",
    "darts",
    "darts_2nd",
    "darts_plus",
    "dso_nas",
    "gdas",
    "nasp",
    "p_darts",
    "parsec",
    "pc_darts",
    "proxyless_nas",
    "read_genotype",
    "retrain",
    "robust_darts",
    "search",
    "sharp_darts",
    "smooth_darts_adv",
    "smooth_darts_rs",
    "snas",
]
