"""`zoo.search` and `audax-zoo search`: queries, models and folders."""

import csv
import dataclasses
import itertools
import json
import pathlib
import shutil

import jax
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
from rows import parquet, sorted_by_cosine
from tiny_resnet import ENTRY, RATE, save

import zoo
from zoo.__main__ import main
from zoo._matches import is_words, nearest
from zoo._row_files import RowFiles
from zoo._rows import Part, write


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a model."""
    return save(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, model):
    """A folder with recordings, and with their rows as a corpus, `out`, and in files of one."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        pathlib.Path("data").mkdir()
        for index, seconds in enumerate((0.5, 1.5, 2.0)):
            tone = np.sin(2 * np.pi * 200 * 4**index * np.arange(round(seconds * RATE)) / RATE)
            soundfile.write(f"data/{index}.wav", 0.3 * tone + rng.uniform(-0.1, 0.1, tone.shape), RATE)
        for out in ("out/", "out.npz", "out.parquet"):
            assert main(["embed", "data", "-o", out, "--each", "window", "--model", model]) == 0
    return folder


@pytest.fixture
def workdir(corpus, monkeypatch):
    monkeypatch.chdir(corpus)


def test_single_files_hold_what_the_corpus_does(workdir):
    files = {name: RowFiles(name) for name in ("out", "out.npz", "out.parquet")}
    expected = next(files["out"].blocks(8, 100))
    assert len(expected) == 8 and files["out"].note["model"] == "tiny"
    for name in ("out.npz", "out.parquet"):
        (rows,) = files[name].blocks(8, 100)
        np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-6)  # embedded in batches of their own
        assert files[name].places([5, 0, 7]) == files["out"].places([5, 0, 7])
        assert files[name].note is None


# The query and the model ----------------------------------------------------------------------------------------------


def test_a_recording_finds_itself(workdir, model):
    clip = zoo.load(model)
    for rows in ("out", "out.npz", "out.parquet"):
        for query in ("data/0.wav", pathlib.Path("data/0.wav"), pathlib.Path("data/0.wav").read_bytes()):
            first, *others = zoo.search(rows, query, clip, k=5)
            assert (first.file, first.start, first.end, len(others)) == ("data/0.wav", 0.0, 0.5, 4)
            assert first.similarity == pytest.approx(1.0, abs=1e-6)
            assert all(1.0 > one.similarity >= two.similarity for one, two in itertools.pairwise(others))


def test_a_long_recording_counts_by_the_mean_of_windows_as_long_as_the_rows(workdir, model, tmp_path):
    clip, wave = zoo.load(model), zoo.read("data/2.wav", RATE)
    assert (
        main(["embed", "data", "-o", str(tmp_path / "out"), "--each", "window", "--window", "0.25", "--model", model])
        == 0
    )
    for rows, window in (("out", None), (tmp_path / "out", 0.25)):
        (result,) = zoo.embed(clip, ["data/2.wav"], window=window)
        expected = nearest(RowFiles(rows), result.values[0], 20)[1]
        matches = zoo.search(rows, (wave, RATE), clip)
        assert [match.similarity for match in matches] == pytest.approx(expected, abs=1e-6)


def test_the_model_of_the_corpus_is_loaded_by_its_name(tmp_path, monkeypatch, sound):
    assert main(["embed", str(sound), "-o", "out", "--each", "window"]) == 0
    matches = zoo.search("out", sound, k=2)
    assert matches == zoo.search("out", sound, zoo.load("resnet_esc10"), k=2) and matches[0].file == str(sound)


def test_words_find_their_sounds(capsys, shared, tmp_path):
    """The rows are what transformers makes of texts and of a sound; one text then is the query."""
    folder = shared / "oracles" / "clap_unfused"
    golden = np.load(folder / "golden.npz")
    parquet(tmp_path / "out", np.concatenate([golden["audio_full"][None], 3 * golden["text"]]).astype(np.float32))
    order, cosines = sorted_by_cosine(np.concatenate([golden["audio_full"][None], golden["text"]]), golden["text"][1])
    words = str(golden["texts"][1])
    matches = zoo.search(tmp_path / "out", words, zoo.load(folder))
    assert order[0] == 2 and [int(match.start) for match in matches] == order
    assert [match.similarity for match in matches] == pytest.approx(cosines, abs=1e-5)
    assert main(["search", str(tmp_path / "out"), words, "-k", "1", "--csv", "--model", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[1].split(",")[1] == "2.000"


def test_words_need_a_model_of_words(workdir, model):
    with pytest.raises(ValueError, match="tiny has no words: load a model of sounds and words"):
        zoo.search("out", "rain on a tent", zoo.load(model))


@pytest.mark.parametrize("text", ["rain on a tent", "0.5 s", "e.g. a dog", "data", "x" * 5000, "Regen, \u96e8", "a\0b"])
def test_what_is_no_path_is_words(workdir, text):
    assert is_words(text) and not is_words("data/0.wav")


def test_the_model_is_loaded_from_where_it_was(workdir, model, tmp_path):
    clip = zoo.load(model)
    assert zoo.search("out", "data/0.wav") == zoo.search("out", "data/0.wav", clip)
    shutil.copytree(model, tmp_path / "moved")
    assert main(["embed", "data", "-o", "out/", "--each", "window", "--model", str(tmp_path / "moved")]) == 0
    shutil.copytree("out", tmp_path / "out")
    note = tmp_path / "out" / "_run.json"
    note.write_text(note.read_text().replace(model, "nowhere/model"))
    with pytest.raises(ValueError, match="rows of the model 'tiny', which does not load from where it was: give the m"):
        zoo.search(tmp_path / "out", "data/0.wav")


def test_another_model_is_refused(workdir, model, tmp_path):
    other = zoo.Pretrained(*zoo.create(ENTRY, key=jax.random.key(1)), ENTRY)
    with pytest.raises(ValueError, match="out holds rows of the model 'tiny', with other weights than tiny has: give"):
        zoo.search("out", "data/0.wav", other)
    with pytest.raises(ValueError, match=r"out\.npz does not say which model made its rows: give that model, --model"):
        zoo.search("out.npz", "data/0.wav")
    entry = dataclasses.replace(ENTRY, network={"type": "ResNet", "depths": (1,), "widths": (16,)})
    zoo.save(tmp_path / "wide", *zoo.create(entry, key=jax.random.key(1)), entry)
    for rows in ("out.npz", "out.parquet"):
        with pytest.raises(
            ValueError, match=f"{rows} has embeddings of 8 numbers, and the query has one of 16: search with"
        ):
            zoo.search(rows, "data/0.wav", zoo.load(tmp_path / "wide"))


@pytest.mark.parametrize(
    "query, error, fault",
    [
        (
            "none.wav",
            FileNotFoundError,
            "none.wav is neither a file nor a text, because a text has no slash and no suffix",
        ),
        ("data/none", FileNotFoundError, "data/none is neither a file nor a text"),
        (pathlib.Path("none"), FileNotFoundError, "none is not a file"),
        (" ", ValueError, "The query is an empty text: give words, or a recording."),
        (None, TypeError, "A query is a text, or a recording as zoo.read takes it, got a NoneType."),
        (np.zeros(100, np.float32), TypeError, "as zoo.read takes it, got a ndarray."),
        (b"no sound", ValueError, "cannot be read as sound"),
    ],
)
def test_what_is_no_query_is_a_sentence(workdir, model, query, error, fault):
    with pytest.raises(error, match=fault):
        zoo.search("out", query, zoo.load(model))


def test_k_is_at_least_one(workdir):
    with pytest.raises(ValueError, match="search takes k of at least 1, got 0"):
        zoo.search("out", "data/0.wav", k=0)


# Folders that hold no rows, and those that grow -----------------------------------------------------------------------


def test_what_holds_no_rows_is_a_sentence(workdir, model, tmp_path):
    note = tmp_path / "begun" / "_run.json"
    note.parent.mkdir()
    note.write_text("{}")
    (tmp_path / "text.parquet").write_text("no rows")
    pyarrow.parquet.write_table(pyarrow.table({"files": ["a"]}), tmp_path / "files.parquet")
    numbers = pyarrow.table({"files": ["a"], "embeddings": [1.0]})
    pyarrow.parquet.write_table(numbers, tmp_path / "numbers.parquet")
    (tmp_path / "text.npz").write_text("no rows")
    np.savez(tmp_path / "flat.npz", files=np.array(["a"]), embeddings=np.zeros(3, np.float32))
    np.savez(tmp_path / "few.npz", files=np.array(["a"]), embeddings=np.zeros((3, 8), np.float32))
    np.savez(tmp_path / "objects.npz", files=np.array(["a", None]), embeddings=np.zeros((2, 8), np.float32))
    for rows, fault in {
        tmp_path / "none": "none does not exist: name what audax-zoo embed wrote, -o OUT/, .parquet or .npz.",
        "data": "data is no corpus because it has no part-*.parquet: audax-zoo embed RECORDINGS -o data/ makes one.",
        "data/0.wav": "data/0.wav holds no rows of embeddings: name what audax-zoo embed wrote",
        note.parent: "begun is a corpus without rows so far: search it when audax-zoo embed has written some.",
        tmp_path / "text.parquet": "text.parquet is not whole (",
        tmp_path / "files.parquet": "files.parquet has no column embeddings: name what audax-zoo embed wrote.",
        tmp_path / "numbers.parquet": "numbers.parquet has embeddings of the type double, and the zoo searches lists",
        tmp_path / "text.npz": "text.npz is no .npz of embeddings (File is not a zip file): audax-zoo embed writes",
        tmp_path / "flat.npz": "flat.npz is no .npz of embeddings (its embeddings are float32 of the shape (3,) inst",
        tmp_path / "few.npz": "few.npz is no .npz of embeddings (its files are <U1 of the shape (1,) for 3 emb",
        tmp_path / "objects.npz": "objects.npz is no .npz of embeddings (its files are object of the shape (2,) for",
    }.items():
        with pytest.raises((ValueError, OSError)) as raised:
            zoo.search(rows, "data/0.wav", zoo.load(model))
        assert fault in str(raised.value)


def test_a_corpus_is_searched_while_it_is_written(workdir, model, tmp_path):
    clip, folder = zoo.load(model), tmp_path / "out"
    shutil.copytree("out", folder)
    (folder / ".part-000001.1.parquet").write_text("half")
    assert len(zoo.search(folder, "data/0.wav", clip)) == 8
    shutil.copy(folder / "part-000000.parquet", folder / "part-000001.parquet")
    matches = zoo.search(folder, "data/0.wav", clip)
    assert len(matches) == 16 and matches[0] == matches[1]


# Shell ----------------------------------------------------------------------------------------------------------------


def test_the_shell_prints_what_python_gives(capsys, workdir, model):
    matches = zoo.search("out", "data/1.wav", zoo.load(model), k=3)
    command = ["search", "out/", "data/1.wav", "-k", "3", "--model", model]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{each.similarity:6.3f}  {f'{each.start:.1f} to {each.end:.1f} s':>18}  {each.file}" for each in matches
    ]
    assert main([*command, "--csv"]) == 0
    header, *rows = csv.reader(capsys.readouterr().out.splitlines())
    assert header == ["file", "start", "end", "similarity"]
    assert [(row[0], *map(float, row[1:])) for row in rows] == [
        (each.file, each.start, each.end, round(each.similarity, 6)) for each in matches
    ]
    assert main([*command, "--json"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"file": each.file, "start": each.start, "end": each.end, "similarity": round(each.similarity, 6)}
        for each in matches
    ]


def test_rows_without_times_are_printed_without(capsys, workdir, model, tmp_path):
    write(tmp_path / "out.npz", [Part("a", {"embeddings": np.ones((1, 8), np.float32)})])
    command = ["search", str(tmp_path / "out.npz"), "data/0.wav", "--model", model]
    for form, shown in {"--csv": "a,,,", "--json": '{"file": "a", "start": null, "end": null, "similarity": '}.items():
        assert main([*command, form]) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith(shown)
    assert main(command) == 0
    assert capsys.readouterr().out.split()[1:] == ["a"]


def test_twenty_rows_come_unless_told_otherwise_and_faults_exit_2(capsys, workdir, model, tmp_path):
    parquet(tmp_path / "rows", np.ones((30, 8), np.float32))
    assert main(["search", str(tmp_path / "rows"), "data/0.wav", "--model", model]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 20
    for options, fault in {
        ("none", "data/0.wav"): "none does not exist",
        ("out", "none.wav"): "neither a file nor a text",
    }.items():
        assert main(["search", *options, "--model", model]) == 2
        error = capsys.readouterr().err
        assert fault in error and error.count("\n") == 1
