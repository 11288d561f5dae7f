"""The linear probe: the head that scikit-learn finds, the folds, and a model that the zoo loads."""

import csv
import json

import numpy as np
import pytest
import soundfile
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import zoo
from train import probe, records
from train.__main__ import main
from train.dataset import Dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Prepared data: 24 recordings of three kinds of sound, of one or of two labels, and parts of one recording."""
    folder = tmp_path_factory.mktemp("probe")
    rng = np.random.default_rng(0)
    seconds = np.arange(16000) / 16000
    sounds = {
        "hiss": 0.1 * rng.normal(size=16000),
        "hum": 0.3 * np.sin(2 * np.pi * 200 * seconds),
        "beep": 0.3 * np.sin(2 * np.pi * 3000 * seconds),
    }
    rows = []
    for number in range(24):
        label = list(sounds)[number % 3]
        wave = sounds[label] * rng.uniform(0.3, 1) + 0.001 * rng.normal(size=16000)
        soundfile.write(folder / f"{number}.wav", wave, 16000)
        both = label if label != "beep" else "beep;high"
        rows.append((f"{number}.wav", label, both, number % 4))
    for name, place in {"one": 1, "two": 2}.items():
        with open(folder / f"{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows([("files", "labels", "fold"), *((row[0], row[place], row[3]) for row in rows)])
        records.prepare(folder / f"{name}.csv", folder / name, sample_rate=16000, processes=1)
    return folder


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_the_head_is_that_of_scikit_learn(task):
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(90, 6)) * [1, 5, 1, 0.1, 1, 1] + 3).astype(np.float32)
    features[:, 5] = 2.0  # says nothing
    truth = (features[:, :3] - 3 + rng.normal(size=(90, 3))).argmax(axis=1)
    targets = np.eye(3, dtype=np.float32)[truth]
    chosen = np.arange(90) % 3 > 0
    weight, bias = probe.fit_head(features, targets, chosen, task=task, l2=0.5)
    found = probe.probabilities(features @ weight.T + bias, task)
    regression = LogisticRegression(C=2.0, max_iter=5000, tol=1e-8)
    other = regression if task == "multiclass" else OneVsRestClassifier(regression)
    other = make_pipeline(StandardScaler(), other).fit(features[chosen], truth[chosen])
    if task == "multiclass":
        np.testing.assert_allclose(found, other.predict_proba(features), atol=2e-3)
    else:
        expected = [each.predict_proba(other[0].transform(features))[:, 1] for each in other[1].estimators_]
        np.testing.assert_allclose(found, np.stack(expected, axis=1), atol=2e-3)


def test_a_probe_is_cross_validated_and_becomes_a_model(data, tmp_path, capsys, monkeypatch):
    out = tmp_path / "tones"
    assert main(["probe", "cola_small", str(data / "one"), str(out), "--folds", "4"]) == 0
    printed = capsys.readouterr().out
    assert "accuracy 1.0000, standard deviation 0.0000 (1.000, 1.000, 1.000, 1.000)" in printed
    assert "Rows are labels, columns are predictions." in printed
    assert (out / "confusions.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((out / "probe.json").read_text())["folds"]) == 4
    clip = zoo.load(out / "model")
    assert clip.labels == ("beep", "hiss", "hum") and clip.entry.task == "multiclass" and clip.entry.name == "tones"
    (note,) = clip.entry.metrics
    assert (note["metric"], note["value"]) == ("accuracy", 1.0) and "4 parts of the recordings" in note["source"]
    assert clip.top(zoo.read(data / "2.wav", 16000), k=1)[0][0] == "beep"
    (event,) = zoo.detect(clip, [data / "0.wav"], threshold=0.6)
    assert event.label == "hiss"
    rows = np.load(out / "embeddings.npz")["embeddings"]
    (result,) = zoo.embed(zoo.load("cola_small"), [data / "3.wav"])
    np.testing.assert_allclose(rows[3], result.values[0], rtol=1e-3, atol=1e-4)
    monkeypatch.setattr(probe, "embed", None)  # what is there is not computed again
    assert main(["probe", "cola_small", str(data / "one"), str(out), "--column", "fold", "--l2", "10"]) == 0
    assert "4 values of fold" in zoo.load(out / "model").entry.metrics[0]["source"]
    with pytest.raises(TypeError):
        probe.probe("cola_small", data / "two", out)  # other data


def test_clips_with_several_labels_have_a_sigmoid_each(data, tmp_path):
    scores, report = probe.probe("cola_small", data / "two", tmp_path / "out", folds=2)
    assert [round(each["mAP"], 3) for each in scores] == [1.0, 1.0] and "AUC" in report
    clip = zoo.load(tmp_path / "out/model")
    assert clip.entry.task == "multilabel" and not (tmp_path / "out/confusions.png").exists()
    names = {label for label, score in clip.top(zoo.read(data / "2.wav", 16000), k=4) if score > 0.5}
    assert names == {"beep", "high"}


def test_parts_of_recordings_are_heard_with_what_is_around_them(data, tmp_path):
    (data / "timed.csv").write_text("files,start,end,labels\n0.wav,0.4,0.5,hiss\n1.wav,0.1,0.2,hum\n")
    records.prepare(data / "timed.csv", tmp_path / "timed", sample_rate=16000, processes=1)
    clip = zoo.load("cola_small")
    rows = probe.embed(clip, Dataset(tmp_path / "timed"), 0.5)
    wave = zoo.read(data / "0.wav", 16000)[round(0.2 * 16000) : round(0.7 * 16000)]
    np.testing.assert_allclose(rows[0], clip.embed(wave), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["cola_small", "--folds", "1"], "has 24 recordings, which give 2 to as many folds, got 1"),
        (["cola_small", "--column", "take"], "has no column take: it has fold"),
        (["cola_small", "--l2", "0"], "l2 is a penalty of more than 0"),
        (["resnet_fsdd"], "takes waves at 8000 Hz"),
    ],
)
def test_a_probe_that_makes_no_sense_gets_one_sentence(arguments, sentence, data, tmp_path, capsys):
    model, *options = arguments
    assert main(["probe", model, str(data / "one"), str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.startswith("audax-train: ") and not (tmp_path / "out").exists()
