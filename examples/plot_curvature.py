"""
Curvature of an ordinary classifier
===================================

``fastnas.bilevel`` knows losses and dictionaries of tensors, and nothing about architectures. Here it measures how
sharp the minimum of an ordinary network is.
"""

# %%
# A small convolutional network, trained for a few steps on scanned digits.

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from fastnas.bilevel import HessianOperator, dominant_eigenvalue, trace

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float64)[:, None] / 16
labels = torch.tensor(digits.target)
network = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8 * 16, 10)
).double()
optimizer = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9)
for start in range(0, 1500, 50):
    optimizer.zero_grad()
    loss = F.cross_entropy(network(images[start : start + 50]), labels[start : start + 50])
    loss.backward()
    optimizer.step()
print(f"training loss {loss:.3f}")

# %%
# A loss is a function of the weights. ``torch.func.functional_call`` calls the network with weights that are given.

weights = {name: parameter.detach() for name, parameter in network.named_parameters()}


def loss_on(first, last):
    def loss(w):
        return F.cross_entropy(functional_call(network, w, (images[first:last],)), labels[first:last])

    return loss


# %%
# The operator is the Hessian of the mean of both losses. It is exact, and it is never stored.

hessian = HessianOperator([loss_on(0, 200), loss_on(200, 400)], weights)
direction = {name: torch.randn_like(w) for name, w in weights.items()}
product = hessian @ direction
print(f"curvature along a random direction: {sum((product[n] * direction[n]).sum() for n in product):.3f}")

# %%
# The largest eigenvalue says how sharp the minimum is; the trace adds up all eigenvalues.

print(f"largest eigenvalue: {dominant_eigenvalue(loss_on(0, 200), weights):.3f}")
print(f"trace: {trace(hessian)}")
