"""fastnas: the DARTS family of differentiable architecture search in one fast, exact engine."""

from fastnas.methods import Method, darts, pc_darts
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
    "darts",
    "pc_darts",
    "read_genotype",
    "retrain",
    "search",
]
