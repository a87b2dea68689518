"""A search that is observed, tiny."""

import before_after
import pytest
import torch
from before_after import BeforeAfter, Trace

from fastnas.data import load_data

TINY = BeforeAfter(train_fraction=0.05, channels=4, cells=3, batch_size=16, epochs=2, control=True)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_both_searches_are_tabled_with_what_is_left(threads, capsys):
    before_after.main(TINY)
    printed = capsys.readouterr().out
    assert "\n| plain PyTorch | 1 | " in printed  # of 4, without the first and the last of each epoch
    assert "\n| as chosen | 1 | " in printed
    assert "plain PyTorch with and without oneDNN: alpha apart by at most " in printed
    assert "alpha of both after each epoch: apart by at most " in printed
    assert "| cells, backward | " in printed


def test_steps_at_the_end_of_an_epoch_hold_its_evaluation_and_are_left_out(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(before_after, "process_time", lambda: next(clock))

    def search(space, method, data, config, *, on_step, on_epoch):
        for done in range(1, 7):
            if done % 3 == 0:
                for _ in range(50):  # an evaluation
                    next(clock)
            on_step(done, 6)
            if done % 3 == 0:
                on_epoch({"alpha": {"normal": [[float(done)]], "reduction": [[1.0]]}})

    monkeypatch.setattr(before_after, "search", search)
    trace = before_after.traced(TINY, load_data("digits"), 2)
    assert trace.steps == [1, 1, 1]
    assert trace.whole == 107
    assert trace.rest == 104
    assert len(trace.alpha[0]) == 2 * 14 * 8  # before the first epoch
    assert [alpha.tolist() for alpha in trace.alpha[1:]] == [[3.0, 1.0], [6.0, 1.0]]


def test_distances_are_the_largest_of_each_epoch():
    mine, others = ([torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.0])], [torch.tensor([1.5, 2.0]), torch.zeros(2)])
    assert before_after._distance(mine, others) == [0.5, 0.0]
    assert Trace([3.0, 1.0, 2.0], 10.0, []).step == 2.0


def test_a_method_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"method must be among .*, got half"):
        before_after.main(BeforeAfter(method="half"))
