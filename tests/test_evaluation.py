"""Evaluation of a run on prepared data: labels by name, what does not fit, the report, and the predictions in a CSV."""

import csv
import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import equinox as eqx
import jax
import numpy as np
import pytest
import soundfile
from sklearn.metrics import average_precision_score, roc_auc_score

import zoo
from train import __main__ as command
from train import evaluation, loop, records
from train.__main__ import main
from train.dataset import Dataset
from train.metrics import Scorer, match_targets, multilabel
from train.recipe import Data, Model, Optimizer, Recipe
from train.step import mesh

ENTRY = zoo.Entry(
    name="tiny",
    frontend={"type": "LogMel", "sample_rate": 8000, "bins": 16, "n_fft": 256, "hop_length": 160},
    network={"type": "ResNet", "depths": (1,), "widths": (8,)},
    classes=3,
    labels=("low", "high", "mid, or so"),  # not in the order that a manifest's labels get
    task="multiclass",
    window=0.25,
)
PITCHES = {"low": 300, "high": 2500, "mid, or so": 900}


def prepare(folder, rows, name="data", sample_rate=8000, unlabelled=False):
    """A manifest of (file, labels, split), and the folder made from it; files are tones by their first letter."""
    with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("files", "labels", "split"), *rows])
    for number, row in enumerate(rows):
        pitch = {"l": 300, "h": 2500, "m": 900}[row[0][0]] + 7 * number
        wave = 0.3 * np.sin(2 * np.pi * pitch * np.arange(2000 + 150 * number) / 8000)
        soundfile.write(folder / row[0], wave, 8000)
    records.prepare(folder / f"{name}.csv", folder / name, sample_rate=sample_rate, processes=1)
    return folder / name


def run(folder, entry, hold_out="split"):
    """A run's folder with a model of random weights, of which a State that is not random makes it tell tones apart."""
    model, state = zoo.create(entry, key=jax.random.key(0))
    zoo.save(folder / "model", model, state, entry)
    data = {"hold_out": hold_out, "held_out": ["test"] if hold_out else [], "batch": 16}
    (folder / "recipe.json").write_text(json.dumps({"data": data}))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    folder.mkdir(exist_ok=True)
    return run(folder, ENTRY)


@pytest.fixture(scope="module")
def rows():
    names = {"l": "low", "h": "high", "m": "mid, or so"}
    return [(f"{each}{n}.wav", names[each], "test" if n else "train") for n in range(4) for each in "lhm"]


@pytest.fixture(scope="module")
def data(tmp_path_factory, rows):
    return prepare(tmp_path_factory.mktemp("data"), rows)


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_labels_are_matched_by_name(data, trained, tmp_path, rows):
    """The CSV has the manifest's labels, and the figures are those of the CSV, though the orders differ."""
    assert Dataset(data).labels == ("high", "low", "mid, or so") != ENTRY.labels
    found, _ = evaluation.evaluate(trained, data, out=tmp_path / "clips.csv")
    lines = read(tmp_path / "clips.csv")
    assert [(line["files"], line["labels"]) for line in lines] == [row[:2] for row in rows if row[2] == "test"]
    clip = zoo.load(trained / "model")
    for line in lines:
        values = {label: float(line[f"probability/{label}"]) for label in ENTRY.labels}
        assert sum(values.values()) == pytest.approx(1, abs=1e-5)
        assert line["predicted"] == max(values, key=values.get)
    assert found["accuracy"] == np.mean([line["labels"] == line["predicted"] for line in lines])
    # A clip of one window, by hand: the first of those held out has 2450 samples, a whole window and a rest
    dataset = Dataset(data)
    wave = dataset.read(dataset.ids.index(lines[0]["files"]))
    windows = [wave[:2000], np.pad(wave[2000:], (0, 4000 - len(wave)))]
    shares = [2000, len(wave) - 2000]
    expected = np.average([np.asarray(clip.probabilities(each)) for each in windows], axis=0, weights=shares)
    values = [float(lines[0][f"probability/{label}"]) for label in clip.labels]
    np.testing.assert_allclose(values, expected, atol=1e-4)


def test_fewer_labels_in_another_order_give_the_same_predictions(data, trained, tmp_path, rows):
    fewer = prepare(tmp_path, [row for row in rows if row[1] != "low"])
    _, report = evaluation.evaluate(trained, fewer, out=tmp_path / "fewer.csv")
    evaluation.evaluate(trained, data, out=tmp_path / "all.csv")
    known = {line["files"]: line for line in read(tmp_path / "all.csv")}
    lines = read(tmp_path / "fewer.csv")
    assert len(lines) == 6
    for line in lines:
        assert line["labels"] == known[line["files"]]["labels"]
    table = [line.split() for line in report.splitlines() if line.startswith("0 low")]
    assert table[0][2] == "0" and table[0][4] == "-"  # no clips, so no recall


CASES = [
    ([("l.wav", "LOW", "test")], {}, r"has clips of LOW, and tiny knows low, high, mid, or so: give them its names"),
    (
        [("l.wav", "low;high", "test")],
        {},
        r"0 clips without a label and 1 with several among the 1 .* takes one label a clip",
    ),
    ([("l.wav", "low", "test"), ("h.wav", "", "test")], {}, r"1 clip without a label and 0 with several"),
    ([("l.wav", "low", "test")], {"sample_rate": 4000}, r"tiny takes waves at 8000 Hz, .* prepare it with .*8000"),
    ([("l.wav", "low", "train")], {}, r"has train in its column split, not test"),
]


@pytest.mark.parametrize("rows, settings, sentence", CASES)
def test_what_the_model_was_not_made_for_gets_one_sentence(rows, settings, sentence, trained, tmp_path, capsys):
    data = prepare(tmp_path, rows, **settings)
    with pytest.raises(ValueError, match=sentence):
        evaluation.evaluate(trained, data)
    capsys.readouterr()
    assert main(["evaluate", str(trained), str(data)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("audax-train: ") and error.count("\n") == 1


def test_labels_of_clips_that_are_not_evaluated_do_not_matter(trained, tmp_path):
    data = prepare(tmp_path, [("l.wav", "low", "test"), ("h.wav", "unheard of", "train"), ("m.wav", "", "train")])
    dataset = Dataset(data)
    held = dataset.rows("split", ["test"], held_out=True)
    np.testing.assert_array_equal(match_targets(ENTRY, dataset, held), [[1, 0, 0]])
    with pytest.raises(ValueError, match="has clips of unheard of"):
        match_targets(ENTRY, dataset, np.arange(3))


def test_all_clips_of_other_data(trained, data, tmp_path):
    other = run(tmp_path, ENTRY, hold_out=None)
    with pytest.raises(ValueError, match=r"without holding clips out: .* with --all-clips"):
        evaluation.evaluate(other, data)
    evaluation.evaluate(other, data, all_clips=True, out=tmp_path / "a.csv")
    assert len(read(tmp_path / "a.csv")) == 12


@pytest.mark.parametrize("out, sentence", [(".", "is a folder"), ("none/a.csv", "none is not a folder")])
def test_predictions_that_cannot_be_written_are_refused_at_once(out, sentence, trained, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Scorer, "outputs", lambda *_: pytest.fail("time was spent"))
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        evaluation.evaluate(trained, data, out=pathlib.Path(out))


def test_a_model_of_nan_gets_no_figures(data, tmp_path):
    model, state = zoo.create(ENTRY, key=jax.random.key(0))
    model = jax.tree.map(lambda leaf: leaf * np.float32(np.nan) if isinstance(leaf, jax.Array) else leaf, model)
    model = eqx.nn.inference_mode(model)
    score = Scorer(ENTRY, Dataset(data), np.arange(12), mesh(1), 16)
    with pytest.raises(
        FloatingPointError, match=r"NaN or infinite values for 12 of 12 clips, the first of them l0\.wav"
    ):
        score(model, state)


OWN = """
import equinox as eqx, jax.numpy as jnp, numpy as np
import audax_eqx, zoo
from train.recipe import Data, Model, Optimizer, Recipe, Run

@zoo.register
class Levels(audax_eqx.AbstractFrontend):
    \"\"\"The level of each stretch of 100 samples.\"\"\"
    sample_rate: int = eqx.field(static=True)
    bins: int = eqx.field(static=True, default=1)
    min_samples: int = eqx.field(static=True, default=100)

    def __call__(self, wave):
        parts = wave[: len(wave) // 100 * 100].reshape(-1, 100)
        return jnp.log(jnp.mean(jnp.square(parts), axis=1, keepdims=True) + 1e-6)

    def times(self, positions):
        return (positions * 100 + 50) / self.sample_rate

recipe = Recipe(
    "levels", Model({"type": "Levels", "sample_rate": 8000}, {"type": "ResNet", "depths": (1,), "widths": (8,)}),
    Data(0.25, batch=8, hold_out="split", held_out=("test",)), Optimizer(0.01), run=Run(steps=2),
)
"""


def test_a_class_of_a_recipe_is_trained_evaluated_and_saved(data, tmp_path):
    """Each command in a process of its own, which knows the class by the recipe's file alone."""
    file, run = tmp_path / "own.py", tmp_path / "run"
    file.write_text(OWN)

    def process(*arguments):
        done = subprocess.run([sys.executable, "-m", "train", *map(str, arguments)], capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    assert process(file, data, run)[0] == 0
    code, _, error = process("save", run, tmp_path / "own")
    assert code == 2 and "Levels" in error and "zoo.register(Levels)" in error
    code, report, _ = process("evaluate", run, data, "--recipe", file)
    assert code == 0 and "accuracy" in report
    assert process("save", run, tmp_path / "own", "--recipe", file)[0] == 0
    assert json.loads((tmp_path / "own" / "config.json").read_text())["frontend"]["type"] == "Levels"


# Folders and names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "folder, name", [(".", "inner"), ("..", "outer model"), ("../inner/", "inner"), ("new", "new"), ("a\nb☃", "a b☃")]
)
def test_a_saved_model_has_the_name_of_its_folder(folder, name, trained, tmp_path, monkeypatch):
    (tmp_path / "outer model/inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "outer model/inner")
    assert main(["save", str(trained), folder]) == 0
    assert zoo.load(pathlib.Path(folder)).entry.name == name
    card = (pathlib.Path(folder) / "README.md").read_text(encoding="utf-8")
    assert f"# {name}\n" in card


def test_names_that_are_not_utf_8_and_folders_without_a_name():
    assert command.folder_name(pathlib.Path(os.fsdecode(b"caf\xe9"))) == "caf\ufffd"
    assert command.folder_name(pathlib.Path("/")) == ""


def test_what_cannot_be_saved_gets_one_sentence(trained, tmp_path, capsys):
    assert main(["save", str(trained), "/"]) == 2
    assert "/ has no name, which would be the name of the model" in capsys.readouterr().err
    assert main(["save", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "is not the folder of a finished run: it has no model" in capsys.readouterr().err


NAMES = ["l, m.wav", "l\nm.wav", "l☃🐶.wav", 'l"m.wav', "l m.wav", "  l.wav", "l.wav ", os.fsdecode(b"l\xe9.wav")]


def test_files_of_any_name_are_prepared_and_evaluated(trained, tmp_path):
    """From the manifest to the CSV, in a folder of such a name."""
    folder = tmp_path / NAMES[-1]
    folder.mkdir()
    with open(folder / "m.csv", "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([("files", "labels", "split"), *((name, "low", "test") for name in NAMES)])
    for name in NAMES:
        with open(folder / name, "wb") as file:
            soundfile.write(file, 0.3 * np.sin(np.arange(2000) / 5), 8000, format="WAV")
    arguments = ["prepare", str(folder / "m.csv"), str(folder / "data"), "--sample-rate", "8000", "--processes", "1"]
    assert main(arguments) == 0
    assert Dataset(folder / "data").ids == NAMES
    assert main(["evaluate", str(trained), str(folder / "data"), "--out", str(folder / "out.csv")]) == 0
    with open(folder / "out.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert [line["files"] for line in csv.DictReader(file)] == NAMES


# The report -----------------------------------------------------------------------------------------------------------


def lines_of(table):
    """The columns of a table by label."""
    lines = [line.split() for line in table.splitlines()]
    return {label: columns for number, label, *columns in lines if number.isdigit() and not label.isdigit()}


def test_the_table_of_a_multiclass_model():
    targets = np.eye(3)[[0, 0, 0, 1]]
    predicted = np.eye(3)[[0, 0, 1, 1]]
    assert lines_of(evaluation.per_label(predicted, targets, "abc")) == {
        "a": ["3", "1.000", "0.667", "0.800"],  # precision 2 / 2, recall 2 / 3, F1 2 * 2 / (2 + 3)
        "b": ["1", "0.500", "1.000", "0.667"],
        "c": ["0", "-", "-", "-"],
    }
    matrix = lines_of(evaluation.confusions(predicted, targets, "abc"))
    assert matrix == {"a": ["2", "1", "0"], "b": ["0", "1", "0"], "c": ["0", "0", "0"]}


def test_of_many_labels_the_most_frequent_confusions():
    labels = [f"label {number}" for number in range(30)]
    targets, predicted = np.eye(30)[[3, 3, 3, 7, 7, 1]], np.eye(30)[[4, 4, 3, 7, 8, 1]]
    _, *lines = evaluation.confusions(predicted, targets, labels).splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [["2", "label 3 -> label 4"], ["1", "label 7 -> label 8"]]
    assert evaluation.confusions(targets, targets, labels) == ""


def test_the_table_of_a_multilabel_model():
    rng = np.random.default_rng(0)
    targets = (rng.random((20, 4)) < 0.4).astype(np.float32)
    targets[:, 1], targets[:, 2] = 0, 1
    predicted = rng.random((20, 4))
    found = lines_of(evaluation.per_label_ranked(predicted, targets, "abcd"))
    assert found["b"] == ["0", "-", "-"] and found["c"] == ["20", "-", "-"]
    for place, label in ((0, "a"), (3, "d")):
        ap, auc = (
            function(targets[:, place], predicted[:, place]) for function in (average_precision_score, roc_auc_score)
        )
        assert found[label] == [str(int(targets[:, place].sum())), f"{ap:.3f}", f"{auc:.3f}"]
    overall = multilabel(predicted, targets)
    assert overall["mAP"] == pytest.approx(np.mean([float(found[each][1]) for each in "ad"]), abs=1e-3)


def test_a_multilabel_run_says_what_its_figures_leave_out(data, tmp_path, capsys):
    entry = dataclasses.replace(ENTRY, task="multilabel", classes=4, labels=(*ENTRY.labels, "silence"))
    assert main(["evaluate", str(run(tmp_path, entry)), str(data), "--out", str(tmp_path / "a.csv")]) == 0
    printed = capsys.readouterr().out
    assert "leave out labels that are on all or on none of the 9 clips held out: silence." in printed
    assert len(lines_of(printed)["silence"]) == 3
    for line in read(tmp_path / "a.csv"):
        chosen = [label for label in entry.labels if float(line[f"probability/{label}"]) >= 0.5]
        assert line["predicted"] == ";".join(chosen)


def test_a_metric_that_is_never_a_number_says_why(tmp_path):
    data = prepare(tmp_path, [("l.wav", "low", "test"), ("h.wav", "low", "test"), ("m.wav", "high", "train")])
    entry = dataclasses.replace(ENTRY, task="multilabel")
    dataset = Dataset(data)
    score = Scorer(entry, dataset, dataset.rows("split", ["test"], held_out=True), mesh(1), 4)
    assert score.remark == "mAP and AUC are not defined, as each label is on all or on none of the 2 clips held out."
    assert np.isnan(multilabel(np.full((2, 3), 0.5), score.targets)["mAP"])


def test_crops_that_the_frontend_would_cut_are_refused():
    chosen = Recipe("probe", Model(start="ast_audioset"), Data(20.0), Optimizer(1e-3))
    model = type("Model", (), {"frontend": zoo._create.skeleton(zoo.info("ast_audioset"))[0].frontend})()
    with pytest.raises(ValueError, match=r"probe hears 0\.025 s to 10\.26 s, and crops have 20 s"):
        loop._check_window(model, chosen.entry(("a",)))
