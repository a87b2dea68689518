"""Networks of supernets and spaces of one's own: trained, saved and loaded again."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import fastnas
from fastnas.cli.main import main
from fastnas.spaces import DARTS, SHARPDARTS
from fastnas.spaces.sampling import random_genotype
from fastnas.supernet.mix import split_by_node
from fastnas.training.config import RetrainConfig, SearchConfig

SPACE = replace(DARTS, name="one_cell", primitives=("skip_connect", "wide"), cell_types=("normal",), num_inputs=1,
                num_nodes=1, kept_edges=1, concat=(1,))  # fmt: skip
SEARCH = SearchConfig(channels=4, cells=3, epochs=1, batch_size=256, warmup_epochs=0, device="cpu")
RETRAIN = RetrainConfig(channels=4, cells=3, epochs=1, batch_size=256)


class Tiny(nn.Module):
    """A supernet of one mixed operation, called as ``supernet(images, mix)``."""

    space = SPACE

    def __init__(self):
        super().__init__()
        self.stem, self.wide, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 10)

    def forward(self, images, mix):
        x = self.stem(images).relu()
        (node,) = split_by_node(self.space, mix, "normal")
        mixed = node.candidates[0] * x + node.candidates[1] * self.wide(x)
        return self.head(mixed.mean((2, 3)))


def derive(genotype):
    """The network of a genotype of this supernet."""
    chosen = genotype.normal.nodes[0][0].primitive
    body = nn.Identity() if chosen == "skip_connect" else nn.Conv2d(4, 4, 3, padding=1)
    layers = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    return nn.Sequential(*layers)


def test_the_network_of_a_supernet_of_ones_own_is_retrained_and_loaded(tmp_path):
    found = fastnas.search(Tiny(), "darts", "digits", SEARCH)
    trained = fastnas.retrain(found.genotype, "digits", RETRAIN, SEARCH, own=SPACE, network=derive, folder=tmp_path)
    assert trained.num_params == sum(p.numel() for p in derive(found.genotype).parameters())
    model = fastnas.load(tmp_path, network=derive)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(model(x), trained.network(x))
    again = fastnas.retrain(found.genotype, "digits", RETRAIN, SEARCH, own=SPACE, network=derive, folder=tmp_path)
    assert again.test_accuracy == trained.test_accuracy
    with pytest.raises(ValueError, match="network must be the function that made the network, got none"):
        fastnas.load(tmp_path)
    with pytest.raises(ValueError, match="drop_path and auxiliary must be 0 with network="):
        fastnas.retrain(found.genotype, "digits", replace(RETRAIN, drop_path=0.1), SEARCH, own=SPACE, network=derive)
    with pytest.raises(ValueError, match="network must be a function from a genotype to a module, got int"):
        fastnas.retrain(found.genotype, "digits", RETRAIN, SEARCH, own=SPACE, network=lambda genotype: 3)


SOURCE = """
from dataclasses import replace
from torch import nn
from fastnas.spaces import DARTS
from fastnas.supernet import batch_norm

def wide(channels, stride, searching):
    body = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
    return nn.Sequential(nn.ReLU(), body, batch_norm(channels, searching))

space = replace(DARTS, name="mine", primitives=("skip_connect", "sep_conv_3x3"), operations={"sep_conv_3x3": wide})
"""


def test_a_model_of_operations_of_ones_own_is_loaded_with_its_space_and_not_without(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(SOURCE)
    name = f"{tmp_path / 'mine.py'}:space"
    space = fastnas.supernet.own.load_space(name)
    trained = fastnas.retrain(random_genotype(space, 0), "digits", RETRAIN, SEARCH, own=space, folder=tmp_path / "run")
    x = torch.randn(2, 1, 8, 8)
    for given in (space, name):
        assert torch.equal(fastnas.load(tmp_path / "run", space=given)(x), trained.network(x))
    with pytest.raises(ValueError, match=r"the space 'mine' must be given, .*: sep_conv_3x3, got none.*--space"):
        fastnas.load(tmp_path / "run")
    with pytest.raises(ValueError, match="space must be that of the network, 'mine', got 'darts'"):
        fastnas.load(tmp_path / "run", space="darts")
    assert main(["evaluate", str(tmp_path / "run"), "--data", "digits", "--space", name]) in (None, 0)
    assert f"accuracy {100 * trained.test_accuracy:.2f} %" in capsys.readouterr().out


def test_a_space_of_other_operations_of_the_library_keeps_them(tmp_path):
    space = replace(SHARPDARTS, name="sharp_two", primitives=("skip_connect", "sep_conv_3x3"))
    trained = fastnas.retrain(random_genotype(space, 0), "digits", RETRAIN, SEARCH, own=space, folder=tmp_path)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(fastnas.load(tmp_path)(x), trained.network(x))
