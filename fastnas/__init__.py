"""fastnas: the DARTS family of differentiable architecture search in one fast, exact engine."""

from fastnas.dropin.accelerate import accelerate, restore
from fastnas.dropin.mixed_op import MixedOp
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
    "MixedOp",
    "RetrainConfig",
    "RetrainResult",
    "SearchConfig",
    "SearchResult",
    "accelerate",
    "darts",
    "pc_darts",
    "read_genotype",
    "restore",
    "retrain",
    "search",
]
