"""fastnas: the DARTS family of differentiable architecture search in one fast, exact engine."""

from fastnas.cost.expectation import CostObjective, CostReward, RelativeCost, expected_cost, sampled_cost
from fastnas.cost.limit import DeriveWithin
from fastnas.cost.penalties import LinearPenalty, LogPenalty, ProductPenalty
from fastnas.cost.tables import (
    CostTable,
    NetworkSize,
    activation_table,
    derived_cost,
    multiply_add_table,
    parameter_table,
)
from fastnas.dropin.accelerate import accelerate, restore
from fastnas.dropin.mixed_op import MixedOp
from fastnas.latency import load_table as load_latency_table
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
    proxyless_nas_r,
    robust_darts,
    sharp_darts,
    smooth_darts_adv,
    smooth_darts_rs,
    snas,
)
from fastnas.oracle.check import check
from fastnas.plan.planner import Plan, plan
from fastnas.search import SearchResult, search
from fastnas.space.cell_space import (
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
from fastnas.space.formats import read_genotype
from fastnas.space.genotype import Genotype
from fastnas.supernet.operations import batch_norm
from fastnas.supernet.own import load_space
from fastnas.train.config import RetrainConfig, SearchConfig
from fastnas.train.retrain import RetrainResult, retrain

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
