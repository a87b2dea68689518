import re
import shlex

import pytest

from fastnas.files import append_json_line, write_json
from fastnas.report.curves import draw_edge_mix, draw_eigenvalue, draw_mix, find_kept_rows
from fastnas.report.page import (
    flatten,
    list_accuracies,
    list_facts,
    suggest_commands,
    write_report,
    write_sampling_error,
    write_verdict,
)
from fastnas.spaces import DARTS, read_genotype


def network(name, accuracy):
    return {"name": name, "test_accuracy": accuracy}


def test_a_finished_run_is_shown_whole_on_one_page_that_needs_nothing_else(finished):
    page = write_report(finished).read_text()
    assert re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)</dd>", page) == [
        ("found by the search", "97.00 %"),
        ("mean of 2 random architectures", "96.50 %"),
        ("best of them", "98.00 %"),
    ]
    assert "0.50 points above the mean of the random ones and 1.00 points below the best" in page
    assert page.count("<svg") == 2 + 1 + 1 + 2 * 2
    for text in ("12,345", "67,890", "95.00 %", "dil_conv_5x5", "skip_connect", "retrain.lr", "0.125", "9.9", "4 of 4"):
        assert text in page
    assert "Genotype(normal=[(&#39;skip_connect&#39;, 0)" in page
    assert "Not yet" not in page
    for address in ("src=", 'href="http', "@import", "<script"):
        assert address not in page


def test_what_a_run_calls_itself_is_never_markup(started):
    page = write_report(started).read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_a_run_that_has_only_begun_says_what_is_missing(started):
    page = write_report(started).read_text()
    assert page.count("Not yet") == 4
    assert "<svg" not in page
    assert "retrain.lr" in page


def test_a_search_that_still_runs_shows_its_curves_and_where_it_stands(started, records):
    for epoch in range(2):
        append_json_line(started / "metrics.jsonl", {**records.search_record(epoch), "eigenvalue": 1.0 + epoch**2})
    page = write_report(started).read_text()
    assert "2 of 4 epochs" in page
    assert "Sharpness in alpha" in page
    assert "Not yet: it is derived when the search ends." in page
    assert "If it ended now" in page
    assert "max_pool_3x3" in page
    assert page.count("Not yet") == 3


def test_a_search_that_measured_its_sharpness_shows_it_and_where_it_stopped(started, records):
    for epoch in range(4):
        append_json_line(started / "metrics.jsonl", {**records.search_record(epoch), "eigenvalue": 1.0 + epoch**2})
    write_json(started / "stop.json", {"epoch": 1, "reason": "the dominant eigenvalue grew"})
    assert "Sharpness in alpha" in write_report(started).read_text()
    figure = draw_eigenvalue([{"epoch": e, "eigenvalue": 1.0, "roll_backs": [{"to": 2}]} for e in range(4)], 1)
    lines = {line.get_label(): list(line.get_xdata()) for line in figure.axes[0].lines}
    assert lines["eigenvalue"] == [1, 2, 3, 4]
    assert lines["stopped after epoch 4"] == [4, 4]
    assert lines["architecture of epoch 2"] == [2, 2]
    assert lines["went back to, with more weight decay"] == [3, 3]
    assert draw_eigenvalue([records.search_record(0)]) is None


def test_a_comparison_that_still_lacks_the_random_networks_says_so(started):
    searched = {**network("searched", 0.97), "num_params": 1234, "multiply_adds": 5678, "seconds": 1.0}
    write_json(started / "comparison.json", {"networks": [searched]})
    page = write_report(started).read_text()
    assert "97.00 %" in page
    assert "1,234" in page
    assert "Not yet: no random architecture has been retrained" in page
    assert "mean of" not in page


@pytest.mark.parametrize(
    ("random", "says"),
    [
        ((0.9, 0.8), "beats every random architecture, the best one by 2.00 points"),
        ((0.95, 0.99), "Random sampling wins: .* 5.00 points below the mean .* 7.00 points below .* beats 0 of 2"),
        ((0.8, 0.99), "2.50 points above the mean of the random ones and 7.00 points below .* beats 1 of 2"),
        ((0.8, 0.92), "6.00 points above the mean of the random ones and level with the best of them"),
    ],
)
def test_the_verdict_says_who_won(random, says):
    entries = [network(f"random_{i}", accuracy) for i, accuracy in enumerate(random)]
    assert re.search(says, write_verdict([network("searched", 0.92), *entries]) or "")


def test_without_networks_there_is_neither_a_number_nor_a_verdict():
    assert list_accuracies([]) == []
    assert write_verdict([]) is None
    assert write_verdict([network("searched", 0.9)]) is None


def test_settings_are_flattened_to_dotted_names():
    nested = {"a": {"b": {"c": None, "f": 0}, "d": [1, 2]}, "e": "x"}
    assert list(flatten(nested)) == [("a.b.f", "0"), ("a.d", "[1, 2]"), ("e", "x")]  # what is unset is left out


def test_what_chance_alone_does_is_said_beside_the_verdict(finished):
    both = [network("searched", 0.9), network("random_1", 0.9)]
    assert "differ by up to 5.88 points on 200 test images (95 %)" in write_sampling_error(
        both, 200
    )  # 1.96 sqrt(2 .9 .1/200)
    perfect = [network("searched", 1.0), network("random_1", 1.0)]
    assert "up to 0.98 points on 200" in write_sampling_error(perfect, 200)
    assert "this run does not tell them apart" in write_sampling_error(both, 200)
    assert "apart" not in write_sampling_error([network("searched", 0.99), network("random_1", 0.5)], 200)
    assert write_sampling_error(both[:1], 200) is None
    write_json(
        finished / "data.json",
        {"test_images": 200, "resolution": [24, 96], "notes": ["resolution 24x96: the commonest"]},
    )
    page = write_report(finished).read_text()
    assert "on 200 test images" in page
    assert "resolution 24x96: the commonest" in page
    assert "[24, 96]" in page


def test_a_configuration_without_a_space_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json must be what a run writes, got its values"):
        write_report(tmp_path)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"report: run must be a run folder, got .* without config\.json"):
        write_report(tmp_path)


def test_the_page_says_when_where_and_on_what_a_run_was_made():
    versions = {"torch": "2.14", "machine": "Linux", "started": "2026-11-28", "commit": "abc"}
    shown = dict(list_facts({"versions": versions}, {"resolution": [24, 96], "augment": "crop", "test_images": None}))
    expected = {"started": "2026-11-28", "device": "Linux", "commit": "abc", "resolution": "24 × 96"}
    assert shown == expected | {"augmentation": "crop", "versions": "torch 2.14"}
    assert dict(list_facts({"versions": {"gpu": "H100", "machine": "Linux"}}, {}))["device"] == "H100"


def test_kept_edges_are_marked_and_the_product_that_decides_has_panels(records):
    made = [records.search_record(epoch) for epoch in range(2)]
    kept = find_kept_rows(DARTS, read_genotype("DARTS_V2").normal)
    assert len(kept) == 8
    assert kept[0] == "sep_conv_3x3"
    weights = [axis.title.get_fontweight() for axis in draw_mix(DARTS, made, "normal", kept).axes[:14]]
    assert [row for row, weight in enumerate(weights) if weight == "bold"] == sorted(kept)
    axes = draw_edge_mix(made, DARTS, "normal", kept).axes
    assert len(axes) == 8
    rows, edges = made[1]["mix"]["normal"], made[1]["edge_mix"]["normal"]
    line = axes[4].lines[1]  # below node 0, the edge from c_{k-1}
    assert line.get_ydata()[1] == edges[1] * max(rows[1][1:])
    assert line.get_linewidth() > axes[7].lines[4].get_linewidth()


@pytest.mark.parametrize(
    ("halving", "says"), [(0.91, "beats random search with halving"), (0.92, "level"), (0.93, "wins by 1.00 points")]
)
def test_the_verdict_begins_with_random_search_that_had_the_same_time(halving, says):
    entries = [network("searched", 0.92), network("random_1", 0.5), network("halving", halving)]
    assert says in write_verdict(entries).partition(". ")[0] + "."
    assert ("best of them", 0.5) in list_accuracies(entries)


def test_the_commands_that_come_next_can_be_pasted(tmp_path):
    run = tmp_path / "a run"
    (run / "retrain" / "searched" / "model").mkdir(parents=True)
    commands = [command for _, command in suggest_commands(run, {"data": "folder:my photos", "config": {"seed": 3}})]
    assert commands[2].endswith("--seed 4")
    assert f"--recipe {run}/config.json" in " ".join(shlex.split(commands[0]))  # how images are read, what the task is
    own = suggest_commands(run, {"space": "a.py:SPACE", "method": "a.py:search"})[0][1]
    assert "--space a.py:SPACE --trust" in own
    for command in commands:
        arguments = shlex.split(command)
        assert arguments[0] == "fastnas"
        assert any(str(run) in argument for argument in arguments)
