"""Trained networks as folders, from the command line and from Python."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import fastnas
from fastnas import tasks
from fastnas.cli.main import main
from fastnas.data import load_data
from fastnas.networks.export import _WRITERS as WRITERS
from fastnas.networks.export import TOLERANCE, describe_outputs, export
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


@pytest.mark.parametrize("other", [True, False])
def test_an_export_that_fails_leaves_the_file_before_it(run, tmp_path, monkeypatch, other):
    path = tmp_path / "model.pt"
    export(load(run), path, "torchscript")
    before, write = path.read_bytes(), WRITERS["torchscript"]

    def fail(network, example, path, *rest):
        found = write(network, example, path, *rest)
        if not other:
            raise OSError("no space")
        return lambda x: found(x) + 1

    monkeypatch.setitem(WRITERS, "torchscript", fail)
    with pytest.raises(ValueError if other else OSError, match="must give the same outputs" if other else "no space"):
        export(load(run), path, "torchscript")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_retraining_leaves_the_folder_of_another_architecture(run, tmp_path, capsys):
    before = (run / "genotype.json").read_bytes()
    other = fastnas.spaces.genotype_to_text(random_genotype(SPACE, 4))
    assert main(["retrain", other, *TINY, "--run", str(run)]) == 1
    assert "a folder for a retraining of this architecture" in capsys.readouterr().err
    assert (run / "genotype.json").read_bytes() == before
    (tmp_path / "config.json").write_text("{}")
    assert main(["retrain", other, *TINY, "--run", str(tmp_path)]) == 1
    assert "got the run of a search" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.fixture(scope="module")
def regression(tmp_path_factory):
    """A network that finds two numbers far from zero in images, with an image."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("regression")
    images = rng.integers(0, 256, (48, 16, 16), dtype=np.uint8)
    targets = np.stack([1e4 + 5 * rng.normal(size=48), images.mean((1, 2)) * 1e-3], 1)
    config = RetrainConfig(channels=4, cells=3, epochs=2, batch_size=16)
    fastnas.retrain("DARTS_V2", (images, targets), config, task="regression").save(folder)
    return folder, Image.fromarray(images[0])


@pytest.mark.parametrize("to", ["onnx", "torch-export", "torchscript"])
def test_a_regression_is_exported_in_the_unit_of_its_targets(regression, tmp_path, to, capsys):
    folder, image = regression
    path, pixels = tmp_path / "model.bin", torch.from_numpy(np.array(image)).float()[None, None]
    capsys.readouterr()
    assert main(["export", str(folder), "--to", to, "--with-preprocessing", "--out", str(path)]) == 0
    assert "output: numbers in the unit of the targets (value 0, value 1)" in capsys.readouterr().out
    if to == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        got = torch.from_numpy(session.run(["values"], {"images": pixels.numpy()})[0])
    else:
        written = torch.export.load(path).module() if to == "torch-export" else torch.jit.load(path)
        got = written(pixels)
    torch.testing.assert_close(got, load(folder).predict([image]), rtol=1e-5, atol=1e-5)


def test_a_regression_exported_without_says_how_its_numbers_become_targets(regression, tmp_path, capsys):
    folder, image = regression
    capsys.readouterr()
    assert main(["export", str(folder), "--to", "torchscript", "--out", str(tmp_path / "model.pt")]) == 0
    said, model = capsys.readouterr().out, load(folder)
    found = re.search(r"standardised numbers .* targets are number \* \[(.*)\] \+ \[(.*)\], or use --with", said)
    std, mean = (torch.tensor([float(x) for x in found[i].split(", ")]) for i in (1, 2))
    with torch.no_grad():
        outputs = model(model.preprocessing(image)[None])
    torch.testing.assert_close(outputs * std + mean, model.predict([image]))


def test_an_export_that_differs_in_the_unit_of_the_network_is_refused(regression, tmp_path, monkeypatch):
    def write(network, *rest):
        return lambda x: network(x) + torch.tensor([0.0, 1e-5])  # some hundredth of the deviation of the second number

    monkeypatch.setitem(WRITERS, "onnx", write)
    with pytest.raises(ValueError, match="must give the same outputs within"):
        export(load(regression[0]), tmp_path / "model.onnx", with_preprocessing=True)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (tasks.classification(), "logits of the classes (a, b, c and 1 more); their softmax are the probabilities"),
        (
            tasks.multi_label(threshold=0.3),
            "a logit for each label (a, b, c and 1 more); its sigmoid is the probability",
        ),
        (tasks.dense(), "logits of the classes (a, b, c and 1 more) for each place"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_comes_out_is_said_for_each_task(run, task, says):
    model = load(run)
    model.info = replace(model.info, task=task.describe(), classes=tuple("abcd"))
    assert describe_outputs(model).startswith(says)


@pytest.mark.parametrize("dimensions", [1, 3])
def test_series_and_volumes_are_exported_with_their_preprocessing(tmp_path, dimensions):
    x = (np.random.default_rng(0).normal(size=(24, 2, 6, 7, 8)[: 2 + dimensions]) * 20 + 100).astype(np.float32)
    x[:, 1] -= 300
    space = replace(space_by_name("darts"), name="darts_nd", dimensions=dimensions)
    config, setup = RetrainConfig(channels=4, cells=3, epochs=1, batch_size=8), fastnas.SearchConfig(device="cpu")
    trained = fastnas.retrain(random_genotype(space, 0), (x, np.arange(24) % 3), config, setup, own=space)
    trained.save(tmp_path / "model")
    model = load(tmp_path / "model")
    export(model, tmp_path / "model.pt2", "torch-export", with_preprocessing=True)
    given = torch.from_numpy(x[:1])
    with torch.no_grad():
        expected = model(model.preprocessing.normalize(given))
        got = torch.export.load(tmp_path / "model.pt2").module()(given)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


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


def save_arrays(path, change, share=1.0):
    """Digits as numbers of another unit in a file, of whose training images a share of the range is seen."""
    data = load_data("digits")
    parts = {}
    for name, part in (("train", data.train), ("test", data.test)):
        pixels = np.stack([np.asarray(part.image(i)) for i in range(len(part.labels))]) / 255
        parts |= {f"x_{name}": change(pixels * (share if name == "train" else 1)), f"y_{name}": part.labels}
    np.savez(path, **parts)
    return f"arrays:{path}"


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype(np.float32),
        lambda x: (x * 11 - 4).astype(np.float32),
        lambda x: (x * 40_000).astype(np.uint16),
    ],
    ids=["in [0, 1]", "from -4 to 7", "16 bits"],
)
def test_an_evaluation_of_numbers_repeats_the_retraining_whatever_their_range(tmp_path, capsys, change):
    source = save_arrays(tmp_path / "data.npz", change)
    text = fastnas.spaces.genotype_to_text(random_genotype(SPACE, 3))
    assert main(["retrain", text, *TINY, "--epochs", "4", "--data", source, "--run", str(tmp_path / "run")]) == 0
    expected = f"accuracy {100 * load(tmp_path / 'run').metrics['test_accuracy']:.2f} %"
    # The test images are the same where those to train on have another range
    for other in (source, save_arrays(tmp_path / "dark.npz", change, share=0.4)):
        capsys.readouterr()
        assert main(["evaluate", str(tmp_path / "run"), "--data", other, "--device", "cpu"]) == 0
        assert expected in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run"), "--data", "digits", "--device", "cpu"]) == 1
    assert re.search(r"digits must hold numbers as those in \[.*, got images of 8 bits", capsys.readouterr().err)


def test_numbers_are_refused_by_a_network_of_images(run, tmp_path, capsys):
    source = save_arrays(tmp_path / "data.npz", lambda x: x)
    assert main(["evaluate", str(run), "--data", source, "--device", "cpu"]) == 1
    assert "must hold images of 8 bits, as the network was trained on, got numbers" in capsys.readouterr().err


def test_an_evaluation_brings_images_to_the_channels_of_the_network(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            for tint in ("colour", "grey"):
                (tmp_path / tint / part / name).mkdir(parents=True)
            for i in range(8):
                pixels = rng.integers(0, 128, (16, 16, 3), dtype=np.uint8) + (100 * (name == "dog"))
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "colour" / part / name / f"{i}.png")
                Image.fromarray(pixels[..., 0].astype(np.uint8)).save(tmp_path / "grey" / part / name / f"{i}.png")
    text = fastnas.spaces.genotype_to_text(random_genotype(SPACE, 3))
    for channels, other in ((1, "colour"), (3, "grey")):
        run, source = tmp_path / f"run{channels}", f"folder:{tmp_path / 'colour'}"
        arguments = ["--data", source, "--image-channels", str(channels), "--run", str(run)]
        arguments += ["--channels", "4", "--cells", "1", "--epochs", "1", "--batch-size", "4", "--device", "cpu"]
        assert main(["retrain", text, *arguments]) == 0
        capsys.readouterr()
        assert main(["evaluate", str(run), "--data", source, "--device", "cpu"]) == 0
        said = capsys.readouterr().out
        assert f"accuracy {100 * load(run).metrics['test_accuracy']:.2f} %" in said
        assert ("images are read in grey, as the network reads them" in said) == (channels == 1)
        assert main(["evaluate", str(run), "--data", f"folder:{tmp_path / other}", "--device", "cpu"]) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_an_evaluation_takes_volumes(tmp_path, capsys, dtype):
    x = (np.random.default_rng(0).normal(size=(24, 2, 6, 7, 8)) * 20 + 100).astype(dtype)
    y, space = np.arange(24) % 3, replace(space_by_name("darts"), name="darts_3d", dimensions=3)
    np.savez(tmp_path / "volumes.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    np.savez(tmp_path / "smaller.npz", x_train=x[..., 1:], y_train=y)
    config = RetrainConfig(channels=4, cells=3, epochs=1, batch_size=8)
    parts, setup = ((x, y), (x, y)), fastnas.SearchConfig(device="cpu")
    trained = fastnas.retrain(random_genotype(space, 0), parts, config, setup, own=space)
    trained.save(tmp_path / "model")
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "model"), "--data", f"arrays:{tmp_path / 'volumes.npz'}"]) == 0
    assert f"accuracy {100 * trained.test_accuracy:.2f} %" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "model"), "--data", f"arrays:{tmp_path / 'smaller.npz'}"]) == 1
    assert "must have maps of the size [6, 7, 8], as the network reads, got [6, 7, 7]" in capsys.readouterr().err


def test_a_folder_without_a_model_is_one_clear_line(tmp_path, capsys):
    assert main(["predict", str(tmp_path), "x.png"]) == 1
    assert "the folder must hold a model.json" in capsys.readouterr().err
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ValueError, match=r"model.json must describe a model, got .*genotype"):
        load(tmp_path)


def test_what_torchscript_does_not_compile_is_one_line_with_the_way_out(tmp_path):
    with pytest.raises(ValueError, match=r"must be such as TorchScript compiles, .* Use --to torch-export or onnx"):
        WRITERS["torchscript"](Noise(1), torch.zeros(1, 2, 4, 4), tmp_path / "model.pt", False, "logits")
