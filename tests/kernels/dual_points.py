"""Cells at random points and along random directions, and what their definition says of them."""

import torch

from fastnas_kernels.mixed_op.definition import gradients_of, nodes_of, tangent_of
from fastnas_kernels.mixed_op.plan import Candidate, CellPlan, EdgePlan

SEPARABLE, DILATED = Candidate("depthwise", 3, 1, 2), Candidate("depthwise", 5, 2)
EVERY = (Candidate("max_pool"), Candidate("avg_pool"), Candidate("skip"), SEPARABLE, DILATED)


def a_plan(channels, k, stride):
    edges = (EdgePlan(0, 1, EVERY), EdgePlan(0, 2, EVERY), EdgePlan(1, 2, (SEPARABLE, Candidate("skip"))))
    return CellPlan(channels, 1, 2, edges, stride, k)


def random_point(plan, images=3, size=(6, 5), dtype=torch.float64):
    """``x`` (input states, mix, weights of the edges, filters) and a direction of its kind."""
    generator = torch.Generator().manual_seed(2)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    shapes = [(1, images, *size, plan.channels), (plan.num_coefficients,), (len(plan.edges),), *plan.filter_shapes]
    return [random(*shape) for shape in shapes], [random(*shape) for shape in shapes], random


def random_statistics(plan, random):
    """Mean and variance of every normalisation."""
    rows = len(plan.norms), plan.mixed_channels
    return torch.stack([random(*rows), random(*rows).square() + 0.5], 1)


def by_definition(plan, x, u, dnodes, statistics=None):
    """Nodes and all gradients, and their tangents: of the states, of all filters in one, of mix and of the edges."""

    def everything(dnodes, *x):
        def nodes(*x):
            return nodes_of(plan, statistics, *x)[0]

        dinputs, dmix, dedges, *dweights = gradients_of(nodes, x, [True] * len(x), dnodes)
        return nodes(*x), dinputs, torch.cat([dnodes.new_empty(0), *(w.flatten() for w in dweights)]), dmix, dedges

    return tangent_of(everything, (dnodes[0], *x), (dnodes[1], *u))
