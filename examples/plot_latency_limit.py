"""
A search under a latency limit
==============================

A latency table holds what every candidate takes on a device, measured. The derived network never exceeds the limit.
"""

# %%
# Measure the candidates on this CPU. A table is used only where it predicts networks that it has not seen better than
# their mean does, which a busy machine may prevent; this example counts multiply-adds then.

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

import fastnas
from fastnas.costs import DeriveWithin, NetworkSize, derived_cost, multiply_add_table
from fastnas.costs.measurement import measure
from fastnas.spaces.formats import parse_genotype

space = fastnas.spaces.NASBENCH201
size = NetworkSize(channels=4, cells=1, num_classes=10, resolution=(8, 8), image_channels=1)
path = Path(tempfile.mkdtemp()) / "latency.json"
try:
    costs = measure(space, size, torch.device("cpu"), path, minutes=0.3, genotypes=8).costs(space)
except ValueError as error:
    print(error)
    costs = multiply_add_table(space, size)
print(f"costs are in {costs.unit}")

# %%
# The limit is what a good small architecture costs. It is part of the method: derivation chooses the best architecture
# within it, exactly. On the command line: ``--cost.of latency.json --cost.limit MILLISECONDS``.

known = parse_genotype("|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_1x1~2|", space)
limit = derived_cost(known, costs)
method = fastnas.methods.single_darts()
limited = replace(method, name="limited", derivation=DeriveWithin(costs, limit, method.derivation))

# %%
# The same search without and with it.

config = fastnas.SearchConfig(channels=4, cells=1, epochs=6, batch_size=32, train_fraction=0.4, alpha_lr=0.03)
for one in (method, limited):
    found = fastnas.search(space, one, "digits", config)
    print(f"{one.name:13}{derived_cost(found.genotype, costs):12.6g} of {limit:.6g} {costs.unit}: {found.genotype}")
assert derived_cost(found.genotype, costs) <= limit
