"""A derived network with the weights that its operations have in a supernet."""

import re
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastnas.errors import invalid
from fastnas.networks.cells import DerivedCell
from fastnas.networks.chain import ChainNetwork
from fastnas.networks.graph import GraphNetwork
from fastnas.networks.network import DerivedNetwork
from fastnas.spaces.space import Edge, Space


def find_inherited_name(network: DerivedNetwork, space: Space, name: str) -> str:
    """What the parameter ``name`` of a derived network of ``space`` is called in a supernet."""
    if found := re.fullmatch(r"(.+)\.nodes\.(\d+)\.(\d+)\.(.+)", name):
        cell, node, gene = network.get_submodule(found[1]), int(found[2]), int(found[3])
        assert isinstance(cell, DerivedCell), "only cells have nodes"
        primitive, source = cell.cell.nodes[node][gene]
        row = space.row(Edge(source, space.num_inputs + node))
        return f"{found[1]}.edges.{row}.{primitive}.{found[4]}"
    if (found := re.fullmatch(r"blocks\.(\d+)\.operation\.(.+)", name)) and isinstance(network, ChainNetwork):
        return f"blocks.{found[1]}.candidates.{network.primitives[int(found[1])]}.{found[2]}"
    if name.endswith(".scales") and isinstance(network, GraphNetwork):
        block = network.get_submodule(name.removesuffix(".scales"))
        return f"{name} {getattr(block, 'reads', list(block.operations))} {getattr(block, 'output', '')}"  # type: ignore[call-overload]
    return name


class Weights(NamedTuple):
    """What a network may take over.

    Args:
        tensors: Under the names that they have in a supernet.
        space: That of the network.
    """

    tensors: dict[str, Tensor]
    space: Space


class Taken(NamedTuple):
    """What a network took over.

    Args:
        share: Of its parameters.
        fresh: Names of those that it did not.
        unused: Names of what it had no place for.
    """

    share: float
    fresh: list[str]
    unused: list[str]


def read_weights(network: DerivedNetwork, space: Space) -> Weights:
    """The weights and running statistics of a trained network, without its auxiliary head."""
    found = {
        find_inherited_name(network, space, name): tensor
        for name, tensor in network.state_dict().items()
        if not name.startswith("auxiliary.")
    }
    return Weights(found, space)


@torch.no_grad()
def take_weights(network: DerivedNetwork, space: Space, source: Weights, same_classes: bool) -> Taken:
    """Copy into ``network`` what ``source`` has under the same name and in the same shape.

    An operation of a cell has the name of its edge and primitive, so that networks of other genotypes share the ones
    that both have.
    """
    parameters, fresh, used = dict(network.named_parameters()), [], set[str]()
    for name, tensor in network.state_dict().items():
        found = find_inherited_name(network, space, name)
        is_shared = found == name or space == source.space
        theirs = source.tensors.get(found) if is_shared else None
        if theirs is None or theirs.shape != tensor.shape or (name.startswith("classifier.") and not same_classes):
            fresh += [name] if name in parameters else []
            continue
        tensor.copy_(theirs)
        used.add(found)
    total = sum(p.numel() for p in parameters.values())
    share = 1 - sum(parameters[name].numel() for name in fresh) / total
    if not share:
        remedy = "Take the same channels and cells."
        raise invalid("init_from", "the networks must share a weight of the same name and shape", "none", remedy)
    return Taken(share, fresh, [name for name in source.tensors if name not in used])


@torch.no_grad()
def inherit_weights(network: DerivedNetwork, supernet: nn.Module) -> int:
    """Copy the weights of ``supernet`` into ``network``, for its accuracy before any training, or a shorter one.

    Scales and shifts of normalisations that the supernet does not have stay 1 and 0; running statistics are not
    inherited, since a supernet keeps none: train a little, or run ``torch.optim.swa_utils.update_bn``.

    Args:
        network: A derived network of cells or of a chain, of the supernet's space, channels and depth.
        supernet: Whose weights; of a search without partial channels.

    Returns:
        How many scalars were copied.

    Raises:
        ValueError: If a weight has no counterpart of its shape.
    """
    space, weights, copied = supernet.space, dict(supernet.named_parameters()), 0
    assert isinstance(space, Space), "a supernet has a space"
    for name, parameter in network.named_parameters():
        if name.startswith("auxiliary."):
            continue
        source = weights.get(find_inherited_name(network, space, name))
        if source is None and parameter.dim() == 1:
            continue  # a scale or a shift
        if source is None or source.shape != parameter.shape:
            got = "no weight of that name" if source is None else f"the shape {tuple(source.shape)}"
            remedy = "Build the network with the supernet's channels and cells; partial channels have other shapes."
            raise invalid("inherit_weights", f"the supernet must have {name} {tuple(parameter.shape)}", got, remedy)
        parameter.copy_(source)
        copied += parameter.numel()
    return copied
