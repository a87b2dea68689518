"""A run folder as a search leaves it, with made-up numbers."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from fastnas.files import append_json_line, write_json
from fastnas.spaces.cell_space import DARTS
from fastnas.spaces.formats import genotype_to_json, genotype_to_text, read_genotype

PDARTS = genotype_to_json(read_genotype("PDARTS"))


def search_record(epoch, epochs=4):
    rng = np.random.default_rng(epoch)
    mix = rng.dirichlet(np.ones(8), 14).tolist()
    edges = rng.random(14).tolist()
    both = {"normal": mix, "reduction": mix}
    return {
        "epoch": epoch,
        "epochs": epochs,
        "step": 11 * epoch,
        "weight_lr": 0.1,
        "alpha_moves": epoch > 0,
        "inner_loss": 2.0 - epoch / 4,
        "inner_accuracy": 0.25 * epoch,
        "outer_loss": 2.1,
        "outer_accuracy": 0.5,
        "entropy": {"normal": 2.0, "reduction": 1.5},
        "alpha": both,
        "beta": {"normal": edges, "reduction": edges},
        "mix": both,
        "edge_mix": {"normal": edges, "reduction": edges},
        "genotype": genotype_to_text(read_genotype("DARTS_V1")),
        "seconds": 1.25,
    }


def retrain_record(epoch, tested):
    return {
        "epoch": epoch,
        "epochs": 2,
        "lr": 0.1,
        "train_loss": 1.0,
        "train_accuracy": 0.5,
        "test_loss": 0.9 if tested else None,
        "test_accuracy": 0.6 if tested else None,
        "seconds": 2.0,
    }


@pytest.fixture
def records():
    """Makers of single records."""
    return SimpleNamespace(search_record=search_record, retrain_record=retrain_record)


@pytest.fixture
def started(tmp_path):
    """A run that has only begun."""
    run = tmp_path / "run"
    settings = {"versions": {"fastnas": "9.9"}, "method": "<script>alert(1)</script>", "space": DARTS.name}
    write_json(run / "config.json", {**settings, "config": {"epochs": 4}, "retrain": {"lr": 0.125}})
    return run


@pytest.fixture
def finished(started):
    """A run with everything."""
    write_json(started / "genotype.json", PDARTS)
    for epoch in range(4):
        append_json_line(started / "metrics.jsonl", search_record(epoch))
    networks = [
        {
            "name": name,
            "genotype": PDARTS,
            "num_params": 12345,
            "multiply_adds": 67890,
            "test_accuracy": accuracy,
            "seconds": 1.0,
        }
        for name, accuracy in (("searched", 0.97), ("random_1", 0.95), ("random_2", 0.98))
    ]
    write_json(started / "comparison.json", {"networks": networks})
    for name in ("searched", "random_1", "random_2"):
        for epoch in range(2):
            append_json_line(started / "retrain" / name / "metrics.jsonl", retrain_record(epoch, epoch == 1))
    (started / "metrics.jsonl").write_text((started / "metrics.jsonl").read_text() + json.dumps(search_record(4))[:50])
    return started
