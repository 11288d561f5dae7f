"""Metrics: closed forms, and every clip counted once in whatever batches."""

import csv
import json
import shutil
import threading

import equinox as eqx
import jax
import numpy as np
import pytest
import soundfile
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from scipy.special import expit, softmax
from scipy.stats import norm

import zoo
from audax_eqx.models.simclr import cosines
from train import metrics
from train.data import crops
from train.dataset import Dataset
from train.metrics import Scorer
from train.records import prepare
from train.signals import Interruption
from train.step import mesh

RATE, SIZE = 8000, 800  # of a window
LENGTHS = [800, 1000, 350, 803, 4000, 1, 1600, 799, 879, 880, 5000, 1200, 77]  # 879 - 800 is below a tenth, 880 is not
ENTRY = zoo.Entry(
    name="tiny",
    frontend={"type": "LogMel", "sample_rate": RATE, "bins": 16, "n_fft": 128, "hop_length": 80},
    network={"type": "ResNet", "depths": (1,), "widths": (8,)},
    classes=3,
    labels=("a", "b", "c"),
    task="multilabel",
    window=0.1,
)
CONTRAST = ENTRY.replace(classes=0, labels=(), task="contrastive", model={"type": "SimCLR", "width": 6})


def test_accuracy_and_cross_entropy_are_their_definitions():
    predicted = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.3, 0.3, 0.4], [0.2, 0.6, 0.2]])
    found = metrics.multiclass(predicted, np.eye(3)[[0, 2, 2, 1]])
    assert found["accuracy"] == 0.75
    assert found["loss"] == pytest.approx(-np.log([0.7, 0.4, 0.4, 0.6]).mean())


def test_map_and_auc_are_means_over_the_classes_that_are_there_and_not():
    predicted = np.array([[0.9, 0.2, 0.5], [0.8, 0.9, 0.5], [0.7, 0.3, 0.5], [0.1, 0.4, 0.5]])
    targets = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]])  # nobody has the third class
    found = metrics.multilabel(predicted, targets)
    # The first class ranks its positives 1 and 3, so that 3 of 4 pairs are right; the second ranks all right
    assert found["mAP"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    assert found["AUC"] == pytest.approx((3 / 4 + 1) / 2)
    assert found["d_prime"] == pytest.approx(np.sqrt(2) * norm.ppf(found["AUC"]))
    right = np.where(targets == 1, predicted, 1 - predicted)
    assert found["loss"] == pytest.approx(-np.log(right).mean())
    assert np.isnan(metrics.multilabel(predicted, np.zeros_like(targets))["mAP"])


def test_d_prime_is_the_distance_of_two_normal_distributions():
    rng = np.random.default_rng(0)
    targets = np.arange(20000)[:, None] % 2
    found = metrics.multilabel(expit(rng.normal(size=(20000, 1)) + 1.5 * targets), targets)
    assert found["d_prime"] == pytest.approx(1.5, abs=0.05)


class Cosines:
    def similarity(self, a, b):
        return cosines(a, b)


def test_clips_find_their_other_crop(monkeypatch):
    monkeypatch.setattr(metrics, "GROUP", 4)
    rng = np.random.default_rng(1)
    anchors = rng.normal(size=(10, 32)).astype(np.float32)
    both = np.stack([anchors, anchors + 0.01 * rng.normal(size=anchors.shape).astype(np.float32)], axis=1)
    assert metrics.contrastive(Cosines(), both) == {"accuracy": 1.0}
    both[:4, 1] = both[[1, 0, 3, 2], 1]  # the first four find each other's
    assert metrics.contrastive(Cosines(), both) == {"accuracy": 0.6}


# Scorer ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("metrics")
    rows = [("files", "labels")]
    for number, length in enumerate(LENGTHS):
        wave = np.random.default_rng(number).uniform(-0.5, 0.5, length)
        soundfile.write(folder / f"{number}.wav", wave * np.linspace(0, 1, length), RATE)
        rows.append((f"{number}.wav", "abc"[number % 3]))
    with open(folder / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    prepare(folder / "manifest.csv", folder / "out", sample_rate=RATE, processes=1)
    return folder / "out"


@pytest.fixture(scope="module")
def dataset(folder):
    return Dataset(folder)


def made(entry, scale=1.0):
    """A clip of random weights, its head's `scale` times as large."""
    model, state = zoo.create(entry, key=jax.random.key(0))
    if entry.classes:
        model = eqx.tree_at(lambda model: model.head.weight, model, scale * model.head.weight)
    return zoo.Pretrained(eqx.nn.inference_mode(model), state, entry)


@pytest.fixture(scope="module")
def clip():
    return made(ENTRY, scale=400.0)


def by_hand(clip, dataset, row, activate):
    """The mean of a clip's windows in float64, weighted by their samples."""
    wave = dataset.read(row)
    starts = [start for start in range(0, len(wave), SIZE) if not start or len(wave) - start >= SIZE / 10]
    parts = [wave[start : start + SIZE] for start in starts]
    logits = np.stack([clip(np.pad(part, (0, SIZE - len(part)))) for part in parts]).astype(np.float64)
    return np.average(activate(logits), axis=0, weights=[len(part) for part in parts])


def no_threads():
    return not [thread for thread in threading.enumerate() if thread.name.startswith("recordings")]


@pytest.mark.parametrize(
    ("task", "activate"), [("multilabel", expit), ("multiclass", lambda logits: softmax(logits, axis=1))]
)
def test_each_clip_has_the_mean_of_its_windows_as_precise_near_one_as_near_zero(dataset, clip, task, activate):
    """On any devices, in batches of any size and in any order; logits are so large that float32 makes 1 of some."""
    entry, rows = ENTRY.replace(task=task), np.arange(13)
    expected = np.stack([by_hand(clip, dataset, row, activate) for row in rows])
    assert ((expected > 1 - 2e-8) & (expected < 1)).any() and (expected < 1e-9).any()
    figures = getattr(metrics, task)(expected, Scorer(entry, dataset, rows, mesh(1), 4).targets)
    for devices, batch, order in ((1, 1, rows), (2, 8, rows[::-1]), (8, 64, rows)):
        score = Scorer(entry, dataset, order, mesh(devices), batch)
        outputs = score.outputs(clip.model, clip.state)
        assert outputs.dtype == np.float64 and outputs.shape == (13, 3)
        for ours, theirs in ((outputs, expected[order]), (1 - outputs, 1 - expected[order])):
            np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-15)  # logits of 100 have an error of 1e-4
        assert score.measure(clip.model, outputs) == pytest.approx(figures, rel=1e-5)


def test_a_contrastive_model_hears_two_crops_of_each_clip(dataset):
    clip, rows = made(CONTRAST), np.arange(13)
    found = Scorer(CONTRAST, dataset, rows, mesh(2), 8).outputs(clip.model, clip.state)
    assert found.shape == (13, 2, 6)
    starts = crops(dataset, rows, SIZE, 2, 0, rows)
    for row, length in enumerate(LENGTHS):
        assert np.all((starts[row] >= 0) & (starts[row] <= max(length - SIZE, 0)))
        for value, start in zip(found[row], starts[row].tolist(), strict=True):
            wave = dataset.read(row, start, SIZE)
            np.testing.assert_allclose(value, clip(np.pad(wave, (0, SIZE - len(wave)))), atol=1e-5)
    assert np.sum(starts[:, 0] != starts[:, 1]) >= 5  # of the 7 that are longer
    again = Scorer(CONTRAST, dataset, rows[::-1], mesh(2), 8).outputs(clip.model, clip.state)
    np.testing.assert_allclose(again[::-1], found, atol=1e-6)


def test_evaluation_of_other_weights_compiles_nothing_and_leaves_no_thread(dataset, clip, programs):
    score = Scorer(ENTRY, dataset, np.arange(13), mesh(8), 16)
    first = score(clip.model, clip.state)
    before = programs()
    for factor in (0.5, 0.25):
        model = eqx.tree_at(lambda model: model.head.weight, clip.model, np.asarray(clip.model.head.weight) * factor)
        model, state = jax.device_put((eqx.filter(model, eqx.is_array), clip.state), NamedSharding(mesh(8), P()))
        assert score(eqx.combine(model, clip.model), state) != first
        assert no_threads()
    assert programs() == before


def test_a_long_clip_is_decoded_in_parts(dataset, clip, monkeypatch):
    score = Scorer(ENTRY, dataset, np.array([10]), mesh(1), 4)
    whole = score.outputs(clip.model, clip.state)
    monkeypatch.setattr(metrics, "BLOCK", 700)
    np.testing.assert_array_equal(score.outputs(clip.model, clip.state), whole)


def test_what_stops_an_evaluation_leaves_no_thread(dataset, clip, folder, tmp_path):
    calls = []

    def check():
        calls.append(None)
        if len(calls) == 3:
            raise Interruption

    with pytest.raises(Interruption):
        Scorer(ENTRY, dataset, np.arange(13), mesh(1), 4)(clip.model, clip.state, check)
    assert len(calls) == 3 and no_threads()

    shutil.copytree(folder, tmp_path / "broken")
    (shard,) = (tmp_path / "broken").glob("*.tfrecord")
    content, example = bytearray(shard.read_bytes()), json.loads(shard.with_suffix(".json").read_text())["examples"][4]
    middle = example["offset"] + example["size"] // 2
    content[middle : middle + 8] = bytes(255 - byte for byte in content[middle : middle + 8])
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"4\.wav cannot be read from .*shard-00000-of-.*: remove that shard"):
        Scorer(ENTRY, Dataset(tmp_path / "broken"), np.arange(13), mesh(1), 4)(clip.model, clip.state)
    assert no_threads()
