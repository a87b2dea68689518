"""fastnas: the DARTS family of differentiable architecture search in one fast, exact engine."""

from fastnas.acceleration.accelerate import accelerate, restore
from fastnas.acceleration.mixed_op import MixedOp
from fastnas.checks.check import check
from fastnas.costs.expectation import CostObjective, CostReward, RelativeCost, expected_cost, sampled_cost
from fastnas.costs.latency import load_table as load_latency_table
from fastnas.costs.limit import DeriveWithin
from fastnas.costs.penalties import LinearPenalty, LogPenalty, ProductPenalty
from fastnas.costs.tables import (
    CostTable,
    NetworkSize,
    activation_table,
    derived_cost,
    multiply_add_table,
    parameter_table,
)
from fastnas.engine import SearchResult, search
from fastnas.memory.planner import Plan, plan
from fastnas.methods.library import (
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
    proxyless_nas_r,
    robust_darts,
    sharp_darts,
    smooth_darts_adv,
    smooth_darts_rs,
    snas,
)
from fastnas.methods.method import Method
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
from fastnas.spaces.formats import read_genotype
from fastnas.spaces.genotype import Genotype
from fastnas.supernet.operations import batch_norm
from fastnas.supernet.own import load_space
from fastnas.training.config import RetrainConfig, SearchConfig
from fastnas.training.retrain import RetrainResult, retrain

__version__ = "0.1.0"

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
    "CellSpace",
    "CostObjective",
    "CostReward",
    "CostTable",
    "DeriveWithin",
    "Genotype",
    "LinearPenalty",
    "LogPenalty",
    "Method",
    "MixedOp",
    "NetworkSize",
    "Plan",
    "ProductPenalty",
    "RelativeCost",
    "RetrainConfig",
    "RetrainResult",
    "SearchConfig",
    "SearchResult",
    "accelerate",
    "activation_table",
    "asap",
    "batch_norm",
    "check",
    "darts",
    "darts_2nd",
    "darts_plus",
    "derived_cost",
    "dso",
    "dso_nas",
    "expected_cost",
    "gdas",
    "load_latency_table",
    "load_space",
    "multiply_add_table",
    "nasp",
    "p_darts",
    "parameter_table",
    "parsec",
    "pc_darts",
    "plan",
    "proxyless",
    "proxyless_nas",
    "proxyless_nas_r",
    "read_genotype",
    "restore",
    "retrain",
    "robust_darts",
    "sampled_cost",
    "search",
    "sharp_darts",
    "smooth_darts_adv",
    "smooth_darts_rs",
    "snas",
]
