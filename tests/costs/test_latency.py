"""The lookup table of this device, and what it says of its own errors."""

import json
from dataclasses import replace

import pytest
import torch

from fastnas.cli.main import main
from fastnas.costs.expectation import expected_cost
from fastnas.costs.latency import (
    Network,
    describe,
    linear_fit,
    load_table,
    percentage_error,
    require_better_than_mean,
    save_table,
)
from fastnas.costs.measurement import check_table, measure_table
from fastnas.costs.tables import NetworkSize, derived_cost, list_distinct_candidates
from fastnas.spaces.cell_space import DARTS, NASBENCH201, S2
from fastnas.spaces.formats import genotype_to_text, parse_genotype
from tests.helpers import uniform_mix

CPU = torch.device("cpu")
SIZE = NetworkSize(channels=4, cells=1, resolution=8)


@pytest.fixture(scope="module")
def table():
    measured = measure_table(NASBENCH201, SIZE, CPU, repeats=3, minutes=0, fit=3)
    return check_table(measured, NASBENCH201, CPU, genotypes=4)


def test_every_candidate_has_a_time_and_the_prediction_is_their_sum_and_the_constant(table):
    assert {entry.candidate for entry in table.entries} == set(list_distinct_candidates(NASBENCH201, SIZE))
    seconds = {(e.primitive, e.channels): e.seconds for e in table.entries}
    assert all(value > 0 for value in seconds.values())
    assert seconds["nor_conv_3x3", 16] > seconds["skip_connect", 16]
    for network in (*table.fitted_on, *table.unseen):
        genes = [gene for node in parse_genotype(network.genotype).normal.nodes for gene in node]
        total = sum(seconds[gene.primitive, channels] for gene in genes for channels in (4, 8, 16))
        assert network.predicted == pytest.approx(table.constant + table.scale * total, rel=1e-12)


def test_the_constant_is_the_median_of_what_the_sums_miss(table):
    residuals = sorted(network.measured - network.predicted for network in table.fitted_on)
    assert residuals[1] == pytest.approx(0, abs=1e-12)


def test_unseen_networks_are_not_those_that_the_constant_was_fitted_to(table):
    fitted, unseen = ({network.genotype for network in networks} for networks in (table.fitted_on, table.unseen))
    assert len(unseen) == 4
    assert not fitted & unseen


def test_a_table_comes_back_from_its_file_with_a_slope(table, tmp_path):
    save_table(tmp_path / "table.json", table)
    again = load_table(tmp_path / "table.json", NASBENCH201, SIZE)
    assert again == table
    content = json.loads((tmp_path / "table.json").read_text())
    assert content["torch_version"] == torch.__version__
    assert content["threads"] == torch.get_num_threads()
    assert content["device"]
    assert content["date"]
    costs = again.costs(NASBENCH201)
    genotype = parse_genotype(table.unseen[0].genotype)
    assert derived_cost(genotype, costs) == pytest.approx(table.unseen[0].predicted, rel=1e-12)
    mix = uniform_mix(NASBENCH201).candidates["normal"].requires_grad_()
    (gradient,) = torch.autograd.grad(expected_cost({"normal": mix}, costs), mix)
    assert torch.equal(gradient, costs.candidates["normal"].float())


def test_errors_are_told_as_they_are(table):
    wrong = tuple(
        Network(genotype=f"{i}", predicted=float(4 - i), measured=float(i), quartiles=(i - 0.25, i + 0.25))
        for i in range(1, 4)
    )
    text = "\n".join(describe(replace(table, unseen=wrong)))
    error = percentage_error([3, 2, 1], [1, 2, 3])
    assert "Kendall's tau -1.00" in text
    assert f"mean absolute percentage error {error:.1f} %" in text
    assert "within 25.0 % around its median" in text
    assert "fitted: " in text


def test_tables_of_anything_else_are_refused(table, tmp_path):
    path = tmp_path / "table.json"
    save_table(path, table)
    with pytest.raises(ValueError, match=r"latency: .* must be a table of the space s2, got one of nasbench201 \(none"):
        load_table(path, S2)
    with pytest.raises(
        ValueError, match="must be a table of a network with channels 8, cells 5, got channels 4, cells 1"
    ):
        load_table(path, NASBENCH201, replace(SIZE, channels=8, cells=5))
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"entries": content["entries"][1:]}))
    with pytest.raises(ValueError, match=r"must have an entry for every candidate, got none for \[Candidate\("):
        load_table(path, NASBENCH201)
    path.write_text(json.dumps(content | {"speed": 1}))
    with pytest.raises(ValueError, match="must hold a latency table, got speed: "):
        load_table(path, NASBENCH201)
    path.write_text("{")
    with pytest.raises(ValueError, match="must hold JSON"):
        load_table(path, NASBENCH201)


def test_more_networks_than_the_space_has_are_refused(table):
    one_primitive = replace(DARTS, primitives=("skip_connect",), name="s2")
    one = replace(one_primitive, num_nodes=1, concat=(2,))
    few = replace(table, space="s2", fitted_on=())
    with pytest.raises(ValueError, match=r"the space must have 2 architectures .*, got 1. Ask for fewer"):
        check_table(few, one, CPU, genotypes=2)


TINY = ["--space", "nasbench201", "--channels", "4", "--cells", "1", "--resolution", "8", "--repeats", "2"]
TINY += ["--genotypes", "3", "--fit", "1", "--minutes", "0", "--force", "--device", "cpu"]


def test_the_command_writes_a_table_and_can_test_it_again(tmp_path, capsys):
    out = tmp_path / "new" / "table.json"
    assert main(["latency", *TINY, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "15 candidates of nasbench201" in printed
    assert "mean absolute percentage error" in printed
    assert "Kendall's tau" in printed
    first = load_table(out, NASBENCH201, SIZE)
    assert main(["latency", *TINY, "--check", str(out), "--seed", "1"]) == 0
    second = load_table(out, NASBENCH201, SIZE)
    assert second.entries == first.entries
    assert second.constant == first.constant
    assert {n.genotype for n in second.unseen} != {n.genotype for n in first.unseen}
    assert genotype_to_text(parse_genotype(first.unseen[0].genotype)) == first.unseen[0].genotype


def test_height_and_width_are_measured_apart(tmp_path, capsys):
    out = tmp_path / "table.json"
    few = ["--fit", "1", "--genotypes", "2", "--repeats", "1"]
    assert main(["latency", *TINY, *few, "--resolution", "8", "24", "--out", str(out)]) == 0
    table = load_table(out, NASBENCH201, replace(SIZE, resolution=(8, 24)))
    assert {entry.size for entry in table.entries} == {(8, 24), (4, 12), (2, 6)}
    capsys.readouterr()
    assert main(["latency", *TINY, *few, "--resolution", "24", "8", "--check", str(out)]) == 1
    assert "must be a table of a network with resolution (24, 8), got resolution (8, 24)." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "nope"], "space: name must be a registered space"),
        (["--out", "{tmp}/file/table.json"], "latency: out must be a file that can be written"),
        (["--out", "{tmp}"], "latency: out must be a file that can be written, got the folder"),
        (["--check", "{tmp}/absent.json"], "absent.json must exist"),
        (["--repeats", "0"], "latency: repeats must be at least 1, got 0"),
        (["--genotypes", "1"], "latency: genotypes must be at least 2, got 1"),
        (["--minutes", "nan"], "latency: minutes must be a number from 0 on, got nan"),
        (["--fit", "0"], "latency: fit must be at least 1, got 0"),
        (["--space", "darts", "--cells", "1"], "layout: cells must be at least 3, got 1"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    out = [] if {"--out", "--check"} & set(arguments) else ["--out", str(tmp_path / "table.json")]
    assert main(["latency", *TINY, *out, *arguments]) in (1, 2)  # 2: refused while the line is read
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "table.json").exists()


def test_a_scale_is_fitted_where_it_predicts_networks_that_were_left_out():
    sums = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert linear_fit(sums, [2 + 0.5 * s for s in sums]) == pytest.approx((0.5, 2.0))
    assert linear_fit(sums, [2 + s for s in sums]) == pytest.approx((1.0, 2.0))
    scale, constant = linear_fit(sums, [5.0, 5.1, 4.9, 5.05, 4.95])  # no relation: close to always saying the mean
    assert 0 <= scale < 0.1
    assert constant == pytest.approx(5, abs=0.2)


def test_a_table_that_does_not_beat_the_mean_is_not_saved(tmp_path, capsys, monkeypatch, table):
    def networks(error):
        """The mean of the fitted ones, 3, is wrong by 50 % on these; the table by ``error``."""
        measured = (2.0, 6.0)
        return tuple(Network(genotype="", predicted=m * (1 + error), measured=m, quartiles=(m, m)) for m in measured)

    fitted = (Network(genotype="", predicted=3.0, measured=3.0, quartiles=(3.0, 3.0)),)
    good, bad = (replace(table, fitted_on=fitted, unseen=networks(error)) for error in (0.4, 0.6))
    require_better_than_mean(good)
    message = r"unseen networks better than their mean does, whose error is 50.0 %, got 60.0 %\. .*--force"
    with pytest.raises(ValueError, match=message):
        require_better_than_mean(bad)
    monkeypatch.setattr("fastnas.costs.measurement.check_table", lambda *arguments, **options: bad)
    out = tmp_path / "table.json"
    arguments = ["latency", *TINY, "--out", str(out)]
    assert main([a for a in arguments if a != "--force"]) == 1
    assert not out.exists()
    assert "got 60.0 %" in capsys.readouterr().err
    assert main(arguments) == 0
    assert load_table(out, NASBENCH201, SIZE) == bad


def test_measuring_goes_on_until_the_error_is_small_or_the_time_is_up(table):
    told = []
    measured = measure_table(NASBENCH201, SIZE, CPU, repeats=2, minutes=5, error=1e9, fit=3, on_round=told.append)
    assert measured.repeats == len(told) == 2
    assert "error" in told[0]
    assert "of at most 5 minutes" in told[0]
    longer = measure_table(NASBENCH201, SIZE, CPU, repeats=1, minutes=0.03, error=0, fit=3)
    assert longer.repeats > 1


def test_recipes_and_data_give_the_sizes(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "fastnas.cli.latency.measure", lambda space, size, *rest, **options: asked.append(size) or table
    )
    monkeypatch.setattr("fastnas.cli.latency.describe", lambda table: [])
    assert main(["latency", "--recipe", "gdas_nasbench201", "--space", "nasbench201", "--device", "cpu"]) == 0
    assert main(["latency", "--data", "imagenet:nowhere", "--channels", "4", "--device", "cpu"]) == 0
    assert asked[0] == NetworkSize(channels=16, cells=5, resolution=32, num_classes=10)
    assert asked[1] == NetworkSize(channels=4, cells=5, resolution=224, num_classes=1000, large=True)


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        ("NaN", "must hold JSON, got NaN, which is no finite number"),
        ("Infinity", "must hold JSON, got Infinity, which is no finite number"),
        ("-1", r"must hold a latency table, got entries.0.seconds: "),
    ],
)
def test_a_table_with_times_that_cannot_be_is_refused(table, tmp_path, seconds, message):
    path = tmp_path / "table.json"
    save_table(path, table)
    content = json.loads(path.read_text())
    content["entries"][0]["seconds"] = float(seconds)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_table(path, NASBENCH201)
