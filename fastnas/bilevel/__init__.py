"""Bilevel problems, their hypergradients and their curvature: useful without architecture search."""

from fastnas.bilevel.hypergradient import FirstOrder, Implicit, Unrolled, UnrolledByDifferences, first_order, unrolled
from fastnas.bilevel.operator import HessianOperator
from fastnas.bilevel.problem import Bilevel, OverProcesses, SgdStep
from fastnas.bilevel.products import (
    Difference,
    average_products,
    by_differences,
    central_difference,
    forward_over_reverse,
    gauss_newton,
    reverse_over_reverse,
)
from fastnas.bilevel.score_function import ImportanceWeighted, Reinforce
from fastnas.bilevel.solve import ConjugateGradients, Neumann
from fastnas.bilevel.spectrum import dominant_eigenvalue, dominant_interval, eigenpairs, spectral_density, trace

__all__ = [
    "Bilevel",
    "ConjugateGradients",
    "Difference",
    "FirstOrder",
    "HessianOperator",
    "Implicit",
    "ImportanceWeighted",
    "Neumann",
    "OverProcesses",
    "Reinforce",
    "SgdStep",
    "Unrolled",
    "UnrolledByDifferences",
    "average_products",
    "by_differences",
    "central_difference",
    "dominant_eigenvalue",
    "dominant_interval",
    "eigenpairs",
    "first_order",
    "forward_over_reverse",
    "gauss_newton",
    "reverse_over_reverse",
    "spectral_density",
    "trace",
    "unrolled",
]
