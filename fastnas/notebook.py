"""How results look in Jupyter: the cells as pictures, and a table beside them."""

import sys
from html import escape
from typing import Any

RESULTS = {
    "Genotype": "fastnas.spaces.genotype",
    "RetrainResult": "fastnas.training.retrain",
    "SearchResult": "fastnas.engine.loop",
}


def to_html(result: Any) -> str:
    """A genotype, or the result of a search or of a retraining, as HTML."""
    from fastnas.report.draw import draw_cell, svg  # noqa: PLC0415  (matplotlib takes half a second)
    from fastnas.spaces.registry import space_by_name  # noqa: PLC0415

    genotype = getattr(result, "genotype", result)
    facts = [("genotype", str(genotype)), *_facts(result)]
    try:
        space = space_by_name(genotype.space)
        cells = [svg(draw_cell(cell, space, space.title(kind))) for kind, cell in genotype.cells.items()]
    except ValueError:
        cells = []
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in facts)
    return f"{''.join(cells)}<table>{rows}</table>"


def _facts(result: Any) -> list[tuple[str, str]]:
    if hasattr(result, "history"):
        last = result.history[-1]
        entropy = ", ".join(f"{kind} {value:.3f} nats" for kind, value in last["entropy"].items())
        facts = [("epochs", str(len(result.history))), ("training loss", f"{last['inner_loss']:.4g} nats")]
        return [*facts, ("entropy of alpha", entropy), *([("stopped", result.stopped)] if result.stopped else [])]
    if hasattr(result, "test_accuracy"):
        accuracy = ("test accuracy", f"{100 * result.test_accuracy:.2f} %")
        return [accuracy, ("parameters", f"{result.num_params:,}"), ("multiply-adds", f"{result.multiply_adds:,}")]
    return []


def register() -> None:
    """Tell IPython, if it runs, how to show results."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        html = shell.display_formatter.formatters["text/html"]
        for name, module in RESULTS.items():
            html.for_type_by_name(module, name, to_html)
