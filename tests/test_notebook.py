"""Results in Jupyter."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import fastnas
from fastnas.engine import SearchResult
from fastnas.mechanisms import Evolution
from fastnas.methods import METHODS
from fastnas.notebook import to_html
from fastnas.spaces import Genotype, read_genotype

DARTS_V2 = read_genotype("DARTS_V2")

RECORD = {"entropy": {"normal": 1.5}, "inner_loss": 0.25}


def test_a_result_shows_its_cells_and_how_decided_it_is():
    page = to_html(SearchResult(DARTS_V2, {}, [RECORD], None))
    assert page.count("<svg") == 2
    assert "normal 1.500 nats" in page
    assert "sep_conv_3x3" in page


def test_a_space_that_nobody_registered_and_foreign_text_are_shown_as_text():
    page = to_html(Genotype("<b>", DARTS_V2.normal))
    assert "<svg" not in page
    assert "<b>" not in page


def test_a_genotype_prints_as_the_text_that_the_field_exchanges():
    assert str(DARTS_V2).startswith("Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1)")


def test_ipython_is_told_when_fastnas_is_imported():
    code = """
import sys, types
told = {}
html = types.SimpleNamespace(for_type_by_name=lambda module, name, show: told.update({name: module}))
shell = types.SimpleNamespace(display_formatter=types.SimpleNamespace(formatters={"text/html": html}))
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: shell)
import fastnas, importlib
for name, module in told.items():
    assert hasattr(importlib.import_module(module), name)
assert len(told) == 3
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_search_in_jupyter_shows_a_live_table(monkeypatch):
    shown = []

    class ZMQInteractiveShell:
        pass

    def display(html, display_id):
        shown.append(html)
        return SimpleNamespace(update=shown.append)

    monkeypatch.setattr(fastnas.progress, "SECONDS", 0)
    module = SimpleNamespace(get_ipython=ZMQInteractiveShell)
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(HTML=str, display=display))
    config = fastnas.SearchConfig(channels=4, cells=1, epochs=2, batch_size=32, train_fraction=0.1)
    fastnas.search("nasbench201", "gdas", "digits", config)
    assert 'value="4" max="4"' in shown[-1]
    assert "<td>2/2</td>" in shown[-1]
    assert "<th>weight loss</th>" in shown[-1]
    shown.clear()
    fastnas.search("nasbench201", replace(METHODS["gdas"](), choice=Evolution(1, 2)), "digits", config)
    assert "4/4 steps" in shown[-3]
    assert ["0/2 parts of the choice" in shown[-2], "1/2 parts of the choice" in shown[-1]] == [True, True]
    shown.clear()
    fastnas.search("nasbench201", "gdas", "digits", config, on_epoch=lambda record: None)
    assert shown == []
