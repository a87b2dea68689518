"""Trained networks as folders, from the command line and from Python."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import fastnas
from fastnas.cli.main import main
from fastnas.data import load_data
from fastnas.networks.export import _WRITERS as WRITERS
from fastnas.networks.export import TOLERANCE, export
from fastnas.networks.model import Preprocessing, find_preprocessing, load
from fastnas.spaces import random_genotype, space_by_name
from fastnas.supernet.operations import Noise
from fastnas.training.config import RetrainConfig

SPACE = space_by_name("nasbench201")
TINY = ["--channels", "4", "--cells", "1", "--epochs", "1", "--train-fraction", "0.1", "--device", "cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "again"
    text = fastnas.spaces.genotype_to_text(random_genotype(SPACE, 3))
    assert main(["retrain", text, *TINY, "--run", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three test images of the digits as files, and as what the network reads."""
    data, folder = load_data("digits"), tmp_path_factory.mktemp("images")
    raw = torch.stack([data.eval_transform(data.test.image(i)) for i in range(3)])
    paths = []
    for i, image in enumerate(raw):
        paths.append(folder / f"{i}.png")
        Image.fromarray(image[0].numpy()).save(paths[-1])
    return paths, data.normalise(raw)


def test_a_retraining_leaves_a_model_that_knows_its_classes_sizes_and_images(run, files):
    model = load(run)
    assert model.classes == tuple("0123456789")
    assert model.genotype == random_genotype(SPACE, 3)
    assert (model.info.channels, model.info.cells, model.preprocessing.resolution) == (4, 1, (8, 8))
    assert 0 <= model.metrics["test_accuracy"] <= 1
    paths, images = files
    read = torch.stack([model.preprocessing(path) for path in paths])
    torch.testing.assert_close(read, images, rtol=1e-5, atol=1e-5)  # float32, in another order
    expected = torch.softmax(model(images), 1)
    torch.testing.assert_close(model.predict(paths), expected, rtol=1e-4, atol=1e-5)
    with_head = torch.load(run / "network.pt", weights_only=True)
    assert all(torch.equal(tensor, with_head[name]) for name, tensor in model.network.state_dict().items())


def test_a_result_is_saved_and_loaded_in_python(tmp_path):
    config = RetrainConfig(channels=4, cells=3, epochs=1, batch_size=32, auxiliary=0.0)
    own = replace(space_by_name("darts"), name="mine", primitives=("none", "skip_connect", "sep_conv_3x3"))
    setup = fastnas.SearchConfig(train_fraction=0.05, device="cpu")
    result = fastnas.retrain(random_genotype(own, 0), "digits", config, setup, own=own)
    result.save(tmp_path / "model")
    again, images = fastnas.load(tmp_path), torch.rand(2, 1, 8, 8)
    assert torch.equal(again(images), result.network(images))
    assert again.metrics["test_accuracy"] == result.test_accuracy


def test_the_numbers_of_a_normalisation_are_found_and_other_functions_refused():
    mean, std = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.25, 0.3])[:, None, None]
    found = find_preprocessing(lambda x: (x.float() / 255 - mean) / std, 3, 32)
    assert found.mean == pytest.approx((0.4, 0.5, 0.6), abs=1e-6)
    assert found.std == pytest.approx((0.2, 0.25, 0.3), abs=1e-6)
    with pytest.raises(ValueError, match="the normalisation of the images must be affine"):
        find_preprocessing(lambda x: x.float().square(), 1, 8)


def test_images_of_16_bits_are_refused(tmp_path):
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="pixels must have 8 bits a channel, got mode I"):
        Preprocessing(1, 8, (0.0,), (1.0,))(tmp_path / "deep.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text.png must be an image file"):
        Preprocessing(1, 8, (0.0,), (1.0,))(tmp_path / "text.png")


@pytest.mark.parametrize("to", ["onnx", "torch-export", "torchscript"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_what_is_exported_gives_the_same_logits(run, tmp_path, to, dynamic):
    if to == "onnx":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    path = tmp_path / "model.bin"
    assert export(load(run), path, to, dynamic_batch=dynamic, with_preprocessing=dynamic) < TOLERANCE
    assert path.stat().st_size > 1000


def test_the_command_line_predicts_and_exports(run, files, capsys):
    paths, images = files
    capsys.readouterr()
    assert main(["predict", str(run), *map(str, paths), "--json", "--top", "2", "--device", "cpu"]) == 0
    said = json.loads(capsys.readouterr().out)
    expected = load(run)(images).argmax(1).tolist()
    assert [entry["classes"][0]["class"] for entry in said] == [str(i) for i in expected]
    assert len(said[0]["classes"]) == 2
    assert main(["export", str(run), "--to", "torchscript", "--dynamic-batch"]) == 0
    assert "model.pt" in capsys.readouterr().out
    assert (run / "model.pt").is_file()


def test_an_evaluation_repeats_the_accuracy_of_the_retraining(run, tmp_path, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", "digits", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert f"accuracy {100 * load(run).metrics['test_accuracy']:.2f} %" in said
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(4):
                Image.fromarray(np.full((8, 8, 3), 20 * i, dtype=np.uint8)).save(tmp_path / part / name / f"{i}.png")
    assert main(["evaluate", str(run), "--data", f"folder:{tmp_path}", "--device", "cpu"]) == 1
    assert "must have the classes of the network, 0, 1, 2, 3, 4 and 5 more, got cat, dog" in capsys.readouterr().err


def test_a_folder_without_a_model_is_one_clear_line(tmp_path, capsys):
    assert main(["predict", str(tmp_path), "x.png"]) == 1
    assert "the folder must hold a model.json" in capsys.readouterr().err
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ValueError, match=r"model.json must describe a model, got .*genotype"):
        load(tmp_path)


def test_what_torchscript_does_not_compile_is_one_line_with_the_way_out(tmp_path):
    with pytest.raises(ValueError, match=r"must be such as TorchScript compiles, .* Use --to torch-export or onnx"):
        WRITERS["torchscript"](Noise(1), torch.zeros(1, 2, 4, 4), tmp_path / "model.pt", False)
