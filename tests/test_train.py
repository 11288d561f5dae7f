"""The recipe that makes the packaged model, on a small model and sounds that are easy to tell apart."""

import csv
import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

import zoo
from train import loop
from train.__main__ import main, read_manifest, run
from train.objectives import supervised
from train.recipe import Recipe
from train.step import optimizer

ENTRY = zoo.Entry(
    name="hum_or_hiss",
    frontend={"type": "LogMel", "sample_rate": 8000, "bins": 16, "n_fft": 256, "hop_length": 160, "floor": 1e-5},
    network={"type": "ConvNeXt", "depths": (1,), "widths": (8,), "input_norm": 16, "layer_scale": 1.0},
    classes=2,
    task="multiclass",
    window=0.5,
)
RECIPE = Recipe(
    ENTRY, epochs=12, batch=8, learning_rate=1e-2, warmup=1, mixup=0.2, mask_frames=4, mask_bins=2, label_smoothing=0.0
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two folds of tones and of noise, of other rates and lengths than the model's, and their manifest."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    rows = []
    for index in range(32):
        label = ("hiss", "hum")[index % 2]
        time = np.arange(rng.integers(5000, 12000)) / 16000
        noise = rng.normal(size=time.shape)
        wave = 0.1 * noise if label == "hiss" else 0.3 * np.sin(2 * np.pi * rng.uniform(80, 300) * time) + 0.001 * noise
        soundfile.write(folder / f"{index}.wav", wave, 16000)
        rows.append({"files": f"{index}.wav", "labels": label, "fold": index // 16 + 1})
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["files", "labels", "fold"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_the_command_makes_a_model_that_the_zoo_loads(data, tmp_path, capsys):
    run(RECIPE, data, tmp_path / "model")
    clip = zoo.load(tmp_path / "model")
    assert clip.labels == ("hiss", "hum")
    (metric,) = clip.entry.metrics
    assert metric["metric"] == "accuracy" and "2 folds of 32 clips" in metric["source"]
    assert metric["value"] >= 0.9
    for index, label in enumerate(("hiss", "hum")):
        assert clip.top(zoo.read(data / f"{index}.wav", 8000), k=1)[0][0] == label
    assert "in cross-validation" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(data):
    waves, classes, _, _ = read_manifest(RECIPE, data)
    recipe = dataclasses.replace(RECIPE, epochs=2, mixup=0.0)
    trained = [
        loop.fit(each, waves, classes, "test")[0].head.weight
        for each in (recipe, recipe, dataclasses.replace(recipe, seed=1))
    ]
    np.testing.assert_array_equal(trained[0], trained[1])
    assert np.abs(trained[0] - trained[2]).max() > 1e-3


def test_read_manifest_cuts_and_fills_up_to_the_window(data):
    waves, classes, folds, labels = read_manifest(RECIPE, data)
    assert waves.shape == (32, 4000) and waves.dtype == np.float32
    assert labels == ("hiss", "hum") and classes.tolist() == [0, 1] * 16 and folds.tolist() == [1] * 16 + [2] * 16
    for index in range(32):
        clip = zoo.read(data / f"{index}.wav", 8000)[:4000]
        np.testing.assert_array_equal(waves[index], np.pad(clip, (0, 4000 - len(clip))))


def test_supervised_is_the_cross_entropy_of_the_models_logits():
    recipe = dataclasses.replace(RECIPE, mixup=0.0, mask_frames=0, mask_bins=0, label_smoothing=0.2)
    model, state = zoo.create(ENTRY, key=jax.random.key(0))
    model = eqx.nn.inference_mode(model)
    wave = jnp.full(4000, 0.1)  # a roll does not change it
    waves, targets = jnp.stack([wave, 2 * wave]), jnp.eye(2)
    loss, _ = supervised(model, state, waves, targets, recipe, key=jax.random.key(1))
    logits = np.stack([model(each, state)[0] for each in waves]).astype(np.float64)
    smooth = np.array([[0.9, 0.1], [0.1, 0.9]])
    expected = np.mean(np.log(np.exp(logits).sum(1)) - (smooth * logits).sum(1))
    assert abs(float(loss) - expected) < 1e-5


def test_the_optimizer_decays_matrices_and_kernels_alone():
    recipe = dataclasses.replace(RECIPE, weight_decay=0.5, warmup=0)
    parameters = {
        "kernel": jnp.ones((3, 3, 1, 2)),
        "weight": jnp.ones((2, 2)),
        "bias": jnp.ones(2),
        "scale": jnp.ones(2),
    }
    update = optimizer(recipe, steps_per_epoch=4)
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    with jax.numpy_dtype_promotion("standard"):
        moved, _ = update.update(zeros, update.init(parameters), parameters)
    shrunk = {name: float(np.abs(value).max()) for name, value in moved.items()}
    assert shrunk["kernel"] == shrunk["weight"] == pytest.approx(0.5 * recipe.learning_rate)
    assert shrunk["bias"] == shrunk["scale"] == 0.0


def test_what_cannot_be_trained_is_one_sentence(data, tmp_path, capsys):
    waves, classes, _, _ = read_manifest(RECIPE, data)
    with pytest.raises(ValueError, match="batches of 64 clips and got 32"):
        loop.fit(dataclasses.replace(RECIPE, batch=64), waves, classes, "test")
    with pytest.raises(FloatingPointError, match="loss of epoch 0 is nan"):
        loop.fit(dataclasses.replace(RECIPE, mixup=0.0), np.full_like(waves, np.nan), classes, "test")
    assert main(["esc10", str(data), str(tmp_path / "no" / "model")]) == 2
    assert "create it first" in capsys.readouterr().err
    assert main(["esc10", str(data), str(tmp_path / "model")]) == 2
    assert "convnext_esc10 has 10 classes" in capsys.readouterr().err
    (tmp_path / "manifest.csv").write_text("path,label\na.wav,dog\n")
    assert main(["esc10", str(tmp_path), str(tmp_path / "model")]) == 2
    assert "files, labels and fold" in capsys.readouterr().err
