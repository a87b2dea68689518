"""Each fault is planted in a network of its own and found; the network without any has none."""

import json
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

import fastnas

C = 4


def convolution():
    depthwise = nn.Conv2d(C, C, 3, padding=1, groups=C, bias=False)
    return nn.Sequential(nn.ReLU(), depthwise, nn.Conv2d(C, C, 1, bias=False), nn.BatchNorm2d(C, affine=False))


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.paths = nn.ModuleList([convolution(), convolution(), nn.Identity()])

    def forward(self, x, weights):
        return sum(w * path(x) for w, path in zip(weights, self.paths, strict=True))


class Twice(Mixture):
    def forward(self, x, weights):
        return sum(w.to(path(x).device) * path(x) for w, path in zip(weights, self.paths, strict=True))


class Waits(Mixture):
    def forward(self, x, weights):
        return sum(w * path(x) for w, path in zip(weights, self.paths, strict=True) if w.item() != 0)


class Turns(Mixture):
    def forward(self, x, weights):
        x = x.contiguous(memory_format=torch.channels_last)
        return super().forward(x, weights).contiguous()


class Net(nn.Module):
    def __init__(self, mixture=Mixture, cut=False):
        super().__init__()
        self.stem, self.cut = nn.Conv2d(3, C, 3, padding=1), cut
        self.edges = nn.ModuleList(mixture() for _ in range(2))
        self.alpha = nn.Parameter(1e-3 * torch.randn(2, 3))
        self.head = nn.Linear(C, 3)

    def arch_parameters(self):
        return [self.alpha]

    def weights(self):
        return [p for name, p in self.named_parameters() if name != "alpha"]

    def forward(self, x):
        x = self.stem(x)
        table = torch.tensor(self.alpha.softmax(-1).tolist()) if self.cut else self.alpha.softmax(-1)
        for edge, row in zip(self.edges, table, strict=True):
            x = edge(x, row)
        return self.head(x.mean((2, 3)))


def batch():
    return torch.randn(4, 3, 8, 8), torch.randint(3, (4,))


def alpha_step(net, given, good):
    def step():
        loss = nn.functional.cross_entropy(net(given[0]), given[1])
        if good:
            net.alpha.grad = torch.autograd.grad(loss, net.alpha)[0]
        else:
            loss.backward()

    return step


class Slow:
    def __iter__(self):
        while True:
            time.sleep(0.5)
            yield None


def found(net, **options):
    given = batch()
    good = options.pop("good", True)
    optimizer = torch.optim.SGD(net.weights(), lr=0.1)
    return fastnas.profile(net, given, optimizer=optimizer, alpha_step=alpha_step(net, given, good), **options)


def test_a_clean_network_has_no_fault_accelerated_or_not():
    net = Net()
    assert found(net, loader=[0] * 9).faults == ()
    fastnas.accelerate(net)
    assert found(net).faults == ()


@pytest.mark.parametrize(
    ("make", "options", "fault"),
    [
        (lambda: Net(Twice), {}, "6 candidates run more than once a forward pass, edges.0.paths.0 first"),
        (lambda: Net(Waits), {}, "the host waits for 6 values a step, 3.0 an edge"),
        (lambda: Net(Turns), {}, "maps change between contiguous and channels-last memory"),
        (Net, {"good": False}, "the alpha step computes the gradients of 12 weights"),
        (Net, {"loader": Slow()}, "for the loader"),
    ],
    ids=["twice", "waits", "layout", "weights in the alpha step", "loader"],
)
def test_a_planted_fault_is_found_and_no_other(make, options, fault):
    (one,) = found(make(), **options).faults
    assert fault in one


def test_an_alpha_without_a_gradient_is_named():
    net, given = Net(cut=True), batch()
    faults = fastnas.profile(net, given).faults
    assert any("alpha alpha has no gradient" in fault for fault in faults)
    assert any("the host waits" in fault for fault in faults) or len(faults) == 1


def test_parts_add_up_and_the_network_is_as_before(tmp_path):
    net, given = Net(), batch()
    before = [p.clone() for p in net.parameters()]
    result = fastnas.profile(net, given, trace=tmp_path / "trace.json")
    assert all(map(torch.equal, before, net.parameters()))
    assert all(p.grad is None for p in net.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())
    rows = {row.part: row for row in result.rows}
    assert rows["edges"].calls == 2
    assert rows["candidates"].calls == 6
    assert rows["candidates"].saved_bytes > rows["the rest"].saved_bytes > 0
    assert rows["forward"].seconds + rows["backward"].seconds == pytest.approx(result.seconds)
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert "one step" in str(result)
    assert "fault: none found" in str(result)


def test_a_loss_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="profile: loss must return one number, got Tensor"):
        fastnas.profile(Net(), batch(), loss=lambda outputs, _: outputs)


def test_the_command_line_prints_the_table_and_fails_on_a_fault(tmp_path, monkeypatch, capsys):
    from fastnas.cli.main import main  # noqa: PLC0415  (imports everything)

    code = "from test_profile import Net, Twice, batch\n\n\ndef clean():\n    return Net(), batch()\n\n\n"
    (tmp_path / "mine.py").write_text(code + "def twice():\n    return Net(Twice), batch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "test_profile", __import__("sys").modules[__name__])
    assert main(["profile", f"{tmp_path}/mine.py:clean", "--accelerate"]) == 0
    assert "fault: none found" in capsys.readouterr().out
    assert main(["profile", f"{tmp_path}/mine.py:twice"]) == 1
    assert "candidates run more than once" in capsys.readouterr().out
    assert main(["profile", f"{tmp_path}/mine.py:batch"]) == 1
    assert "profile: batch must return a network and (images, labels)" in capsys.readouterr().err


def test_a_search_of_ours_is_profiled_by_its_settings(tmp_path, capsys):
    from fastnas.cli.main import main  # noqa: PLC0415  (imports everything)
    from fastnas.experiment.recipes import RECIPES  # noqa: PLC0415
    from fastnas.experiment.settings import experiment_to_json  # noqa: PLC0415

    small = replace(RECIPES["digits_darts"].config, channels=8, cells=3, batch_size=4)
    settings = tmp_path / "config.json"
    settings.write_text(json.dumps(experiment_to_json(replace(RECIPES["digits_darts"], config=small))))
    assert main(["profile", str(settings)]) in (0, 1)  # a loader that is slow beside so small a step is named
    out = capsys.readouterr().out
    for part in ("forward", "backward", "optimiser", "alpha step", "loader", "cells"):
        assert part in out
    assert "candidates" not in out
    assert "fault: the host waits" not in out
    assert "has no gradient" not in out
    assert main(["profile", "digits", "--accelerate"]) == 1
