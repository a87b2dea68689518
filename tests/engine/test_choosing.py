"""The end of a search by evaluations of its supernet: made once, and seen while it runs."""

from dataclasses import replace

import pytest
import torch

from fastnas import search
from fastnas.engine import choosing
from fastnas.experiment.progress import Display, SafeConsole
from fastnas.mechanisms import Evolution, Perturbation
from fastnas.methods import darts
from fastnas.spaces import NASBENCH201
from fastnas.training.config import SearchConfig
from tests.helpers import DIGITS

CONFIG = SearchConfig(
    channels=4, cells=1, epochs=1, batch_size=8, train_fraction=0.03, evaluation_images=8, alpha_lr=0.1, device="cpu"
)
PERTURBED = replace(darts(), choice=Perturbation(tune_epochs=1))


def weights(result):
    return list(result.supernet.parameters())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def first(folder):
    return search(NASBENCH201, PERTURBED, DIGITS, CONFIG, folder=folder)


def test_a_search_that_goes_on_finds_its_choice_and_the_tuned_weights(folder, first, monkeypatch):
    monkeypatch.setattr(choosing, "choose", lambda *_: pytest.fail("it is there"))
    again = search(NASBENCH201, PERTURBED, DIGITS, CONFIG, folder=folder)
    assert again.genotype == first.genotype
    assert all(map(torch.equal, weights(again), weights(first)))


def test_the_choice_is_the_one_without_a_folder(first):
    alone = search(NASBENCH201, PERTURBED, DIGITS, CONFIG)
    assert alone.genotype == first.genotype
    assert all(map(torch.equal, weights(alone), weights(first)))


def test_a_choice_that_is_not_accepted_any_more_is_made_anew(folder, first, monkeypatch):
    monkeypatch.setattr(choosing, "choose", lambda *_: first.genotype)
    refused = []
    search(NASBENCH201, PERTURBED, DIGITS, CONFIG, folder=folder, accept=lambda found: refused.append(found) or False)
    assert refused == [first.genotype]


class Stopped(Exception):
    """Somebody stops the choice."""


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("choice", [Perturbation(tune_epochs=1), Evolution(3, 6)])
def test_a_choice_that_was_stopped_goes_on_where_it_was(tmp_path, monkeypatch, choice, parts):
    method, told = replace(darts(), choice=choice), []
    whole = search(NASBENCH201, method, DIGITS, CONFIG)

    def stop(done, total):
        if done == parts:
            raise Stopped

    with pytest.raises(Stopped):
        search(NASBENCH201, method, DIGITS, CONFIG, folder=tmp_path, on_choice=stop)
    measure = choosing.evaluate_supernet
    monkeypatch.setattr(choosing, "evaluate_supernet", lambda *given: told.append("measured") or measure(*given))
    report = lambda done, total: told.append(done)  # noqa: E731
    again = search(NASBENCH201, method, DIGITS, CONFIG, folder=tmp_path, on_choice=report)
    assert told.index("measured") == parts + 1  # after the parts that were done, and the word that the next one begins
    assert again.genotype == whole.genotype
    assert all(map(torch.equal, weights(again), weights(whole)))


def test_a_choice_that_tunes_otherwise_than_it_did_is_one_line(tmp_path):
    def choose(space, judge, seed):
        judge.tune(judge.mix if judge.accept(None) else {"normal": judge.mix["normal"] * 0}, 1, 0.5)
        judge.report(1, 2)
        raise Stopped

    method = replace(darts(), choice=choose)
    with pytest.raises(Stopped):
        search(NASBENCH201, method, DIGITS, CONFIG, folder=tmp_path)
    with pytest.raises(ValueError, match=r"a choice that goes on must tune as it did before.*Delete choice.pt"):
        search(NASBENCH201, method, DIGITS, CONFIG, folder=tmp_path, accept=lambda genotype: False)


def test_more_epochs_choose_anew(tmp_path):
    method = replace(darts(), choice=Evolution(2, 1))
    search(NASBENCH201, method, DIGITS, CONFIG, folder=tmp_path)
    longer, seen = replace(CONFIG, epochs=2), []
    with pytest.warns(RuntimeWarning, match="goes on as in a search of 2 epochs"):
        search(NASBENCH201, method, DIGITS, longer, folder=tmp_path, extend=True, on_choice=lambda *at: seen.append(at))
    assert seen == [(0, 1)]
    assert not (tmp_path / "choice.previous.pt").exists()  # that of the shorter search


def test_a_damaged_choice_is_one_line(tmp_path):
    method = replace(darts(), choice=Evolution(2, 1))
    search(NASBENCH201, method, DIGITS, CONFIG, folder=tmp_path)
    (tmp_path / choosing.FILE).write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"choice.pt must be a checkpoint of fastnas.*Delete .*choice.pt"):
        search(NASBENCH201, method, DIGITS, CONFIG, folder=tmp_path)


def test_the_parts_of_a_choice_are_printed_where_there_is_no_bar(capsys):
    with Display("search", SafeConsole()) as display:
        display.chosen(0, 2)
        display.chosen(1, 2)
    assert capsys.readouterr().out.splitlines() == [
        "search  choosing by evaluation, 0 of 2 done",
        "search  choosing by evaluation, 1 of 2 done",
    ]
