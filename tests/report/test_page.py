import pytest

from fastnas.report.page import headline, write_report


def network(name, accuracy):
    return {"name": name, "test_accuracy": accuracy}


def test_a_finished_run_is_shown_whole_on_one_page_that_needs_nothing_else(finished):
    page = write_report(finished).read_text()
    assert "97.00 % of the test images" in page
    assert "reach 96.50 % on average and 98.00 % at best. The search beats 1 of them." in page
    assert page.count("<svg") == 2 + 1 + 1 + 2 * 2
    for text in ("12,345", "67,890", "95.00 %", "dil_conv_5x5", "skip_connect", "retrain.lr", "0.125", "9.9", "4 of 4"):
        assert text in page
    assert "Genotype(normal=[(&#39;skip_connect&#39;, 0)" in page
    assert "Not yet" not in page
    for address in ("src=", 'href="http', "@import", "<script"):
        assert address not in page


def test_what_a_run_calls_itself_is_never_markup(finished):
    page = write_report(finished).read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_a_run_that_has_only_begun_says_what_is_missing(started):
    assert write_report(started).read_text().count("Not yet") == 4


@pytest.mark.parametrize(
    ("accuracies", "ending"),
    [((0.9, 0.8), "beats all of them."), ((0.95, 0.99), "beats none of them."), ((0.8, 0.99), "beats 1 of them.")],
)
def test_the_headline_says_who_won(accuracies, ending):
    random = [network(f"random_{i}", accuracy) for i, accuracy in enumerate(accuracies)]
    assert headline([network("searched", 0.92), *random]).endswith(ending)
    assert headline([]) is None


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"report: run must be a run folder, got .* without config\.json"):
        write_report(tmp_path)
