import io

from rich.console import Console

from fastnas.report.progress import Display, epoch_line
from fastnas.report.text import genotype_text
from fastnas.space.formats import read_genotype


def test_a_genotype_is_a_line_an_edge():
    lines = genotype_text(read_genotype("PDARTS")).splitlines()
    assert max(map(len, lines)) <= 80
    assert "  0     c_k-2     skip_connect" in lines
    assert "        2         dil_conv_5x5" in lines
    assert sum("conv" in line or "pool" in line or "skip" in line for line in lines) == 16


def test_outside_of_a_terminal_an_epoch_is_one_plain_line(records):
    output = io.StringIO()
    with Display("search", Console(file=output, width=40)) as display:
        for epoch in range(3):
            for step in range(5):
                display.step(5 * epoch + step + 1, 15)
            display.epoch(records.search_record(epoch))
    lines = output.getvalue().splitlines()
    assert lines[0] == "search"
    assert [line[:9] for line in lines[1:]] == ["epoch   1", "epoch   2", "epoch   3"]
    assert "\x1b" not in output.getvalue()


def test_a_line_holds_losses_accuracies_and_entropy(records):
    line = epoch_line(records.search_record(0))
    for part in ("loss 2.000", "acc   0.0 %", "loss 2.100", "acc  50.0 %", "entropy 2.000 1.500 (warm-up)", "1.2 s"):
        assert part in line
    assert "warm-up" not in epoch_line(records.search_record(1))
    assert "test: loss 0.900 acc  60.0 %" in epoch_line(records.retrain_record(0, True))
    assert "test" not in epoch_line(records.retrain_record(0, False))
