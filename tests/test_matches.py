"""`zoo.search` and `audax-zoo search`: the order of a stable sort of all cosines, whatever the blocks and the files."""

import csv
import dataclasses
import itertools
import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

import zoo
from zoo import _matches
from zoo.__main__ import main
from zoo._matches import is_words, nearest
from zoo._row_files import THREADS, Piece, Place, RowFiles, read_ahead
from zoo._rows import Part, path_of, table, utf8, write

RATE = 8000
ENTRY = zoo.Entry(
    name="tiny",
    frontend={"type": "LogMel", "sample_rate": RATE, "bins": 16, "n_fft": 256, "hop_length": 80},
    network={"type": "ResNet", "depths": (1,), "widths": (8,)},
    classes=3,
    labels=("a", "b", "c"),
    task="multiclass",
    window=0.5,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a model."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    zoo.save(folder, *zoo.create(ENTRY, key=jax.random.key(0)), ENTRY)
    return str(folder)


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
def here(corpus, monkeypatch):
    monkeypatch.chdir(corpus)


def sorted_by_cosine(rows, query):
    """All rows in the order of a stable sort of their cosines in float64, and the cosines in that order."""
    rows, query = rows.astype(np.float64), query.astype(np.float64)
    lengths = np.sqrt(np.sum(rows**2, axis=1)) * np.sqrt(np.sum(query**2))
    cosines = np.sum(rows * query, axis=1) / np.where(lengths == 0, 1, lengths)
    order = np.argsort(-cosines, kind="stable")
    return order.tolist(), cosines[order]


def parquet(folder, rows, parts=3, group=None, **columns):
    """Writes the rows as parts of about the same size, whose recordings have the numbers of rows as names."""
    folder.mkdir(exist_ok=True)
    for index, numbers in enumerate(np.array_split(np.arange(len(rows)), parts)):
        starts = numbers.astype(float)
        each = table([Part(str(numbers[0]), {"starts": starts, "ends": starts + 1, "embeddings": rows[numbers]})])
        pyarrow.parquet.write_table(each, folder / f"part-{index:06}.parquet", row_group_size=group or len(rows))
    return RowFiles(folder)


# The order ------------------------------------------------------------------------------------------------------------


def test_two_hundred_thousand_rows_with_ties_come_as_a_stable_argsort_has_them(tmp_path, monkeypatch):
    monkeypatch.setattr(_matches, "BLOCK", 4 * 16 * 5000)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40_000, 16)).astype(np.float32)[rng.integers(0, 40_000, 200_000)]  # each some five times
    query = rng.normal(size=16).astype(np.float32)
    order, cosines = sorted_by_cosine(rows, query)
    files = parquet(tmp_path, rows, parts=7, group=9000)
    assert len(np.unique(cosines[:20])) < 10
    for k in (1, 20, 3000, 200_000):
        numbers, similarities = nearest(files, query, k)
        assert numbers == order[:k]
        np.testing.assert_allclose(similarities, cosines[:k], rtol=0, atol=1e-15)


def test_an_argsort_in_float32_gives_the_same_rows(tmp_path):
    rng = np.random.default_rng(1)
    rows, query = rng.normal(size=(20_000, 64)).astype(np.float32), rng.normal(size=64).astype(np.float32)
    cosines = (rows / np.linalg.norm(rows, axis=1, keepdims=True)) @ (query / np.linalg.norm(query))
    expected = np.argsort(-cosines, kind="stable")[:20]
    gaps = -np.diff(np.sort(cosines)[::-1][:21])
    assert gaps.min() > 1e-6  # beyond the rounding of float32, by the choice of the seed
    assert nearest(parquet(tmp_path, rows), query, 20)[0] == expected.tolist()


def test_cosines_that_float32_cannot_part_are_parted(tmp_path, monkeypatch):
    monkeypatch.setattr(_matches, "BLOCK", 4 * 32 * 500)
    rng = np.random.default_rng(2)
    query = rng.normal(size=32).astype(np.float32)
    rows = (query + 1e-4 * rng.normal(size=(4000, 32))).astype(np.float32)
    order, cosines = sorted_by_cosine(rows, query)
    assert len(np.unique(cosines.astype(np.float32))) < 10 < len(np.unique(cosines)) / 100
    for k in (1, 7, 600, 4000):
        assert nearest(parquet(tmp_path, rows), query, k)[0] == order[:k]


@pytest.mark.parametrize("rising", [True, False])
def test_the_order_of_the_rows_does_not_matter(tmp_path, monkeypatch, rising):
    monkeypatch.setattr(_matches, "BLOCK", 4 * 8 * 100)
    rng = np.random.default_rng(3)
    rows, query = rng.normal(size=(2000, 8)).astype(np.float32), rng.normal(size=8).astype(np.float32)
    order, _ = sorted_by_cosine(rows, query)
    rows = rows[order[::-1] if rising else order]
    assert nearest(parquet(tmp_path, rows), query, 50)[0] == sorted_by_cosine(rows, query)[0][:50]


def test_more_than_there_are_are_all(tmp_path):
    rows = np.eye(5, dtype=np.float32)
    numbers, similarities = nearest(parquet(tmp_path, rows), rows[3], 10**9)
    assert numbers == [3, 0, 1, 2, 4] and similarities == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_rows_of_any_size_count_by_their_direction(tmp_path):
    rng = np.random.default_rng(4)
    query = rng.normal(size=8).astype(np.float32)
    rows = rng.normal(size=(12, 8)).astype(np.float32)
    with np.errstate(under="ignore"):
        scaled = (
            rows * np.float32(10.0) ** np.array([-37, -30, -20, -10, -5, 0, 5, 10, 18, 25, 30, 37], np.float32)[:, None]
        )
    scaled = np.concatenate([scaled, np.zeros((2, 8), np.float32)])
    numbers, similarities = nearest(parquet(tmp_path, scaled), query, 14)
    order, cosines = sorted_by_cosine(scaled, query)
    assert numbers == order and similarities == pytest.approx(cosines, abs=1e-15)
    assert dict(zip(numbers, similarities, strict=True))[12] == 0.0


def test_a_length_that_float32_loses_does_not_make_a_row_win(tmp_path):
    rows = np.full((2, 64), 9e-20, np.float32)  # whose squares float32 takes for 0
    rows[0, 0], rows[1] = 2e-19, 0.0
    rows[1, :2] = 0.5, 0.9
    assert nearest(parquet(tmp_path, rows, parts=1), np.eye(64, dtype=np.float32)[0], 1)[0] == [1]


def test_rows_with_nan_or_infinity_never_come(tmp_path):
    rows = np.ones((6, 4), np.float32)
    rows[1, 2], rows[2, 0], rows[4] = np.nan, np.inf, -np.inf
    assert nearest(parquet(tmp_path, rows), np.ones(4, np.float32), 20) == ([0, 3, 5], [1.0, 1.0, 1.0])
    assert nearest(parquet(tmp_path, rows), np.zeros(4, np.float32), 2) == ([0, 3], [0.0, 0.0])


def test_one_program_does_for_all_corpora_of_a_width(tmp_path, programs):
    rng = np.random.default_rng(5)
    query = rng.normal(size=11).astype(np.float32)
    counts = []
    for count in (1, 70, 500):
        nearest(parquet(tmp_path / str(count), rng.normal(size=(count, 11)).astype(np.float32), parts=1), query, count)
        counts.append(programs())
    assert counts[0] == counts[-1] > 0


# Files ----------------------------------------------------------------------------------------------------------------


def test_blocks_are_full_across_parts_and_the_rows_are_those_of_one_table(tmp_path):
    rows = np.random.default_rng(6).normal(size=(1000, 6)).astype(np.float32)
    files = parquet(tmp_path, rows, parts=9, group=50)
    blocks = list(files.blocks(6, 300))
    assert list(map(len, blocks)) == [300, 300, 300, 100]
    np.testing.assert_array_equal(np.concatenate(blocks), rows)
    whole = pyarrow.parquet.read_table(tmp_path)
    chosen = [999, 0, 444, 445, 112]
    assert files.places(chosen) == [
        Place(*(whole[name][number].as_py() for name in ("files", "starts", "ends"))) for number in chosen
    ]


def test_a_large_part_is_read_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo._row_files.SMALL", 1 << 20)
    rows = np.zeros((60_000, 256), np.float32)
    rows[:] = np.random.default_rng(7).normal(size=256)
    files = parquet(tmp_path, rows, parts=1)
    before, highest = pyarrow.total_allocated_bytes(), 0
    for _ in files.blocks(256, 1000):
        highest = max(highest, pyarrow.total_allocated_bytes() - before)
    assert 0 < highest < rows.nbytes / 5


def test_few_pieces_are_read_ahead_and_large_ones_not_at_all():
    begun, read = [], []

    def blocks(number):
        read.append(number)
        yield np.full((1, 1), number, np.float32)

    def pieces():
        for number in range(50):
            begun.append(number)
            yield Piece(1 << 40 if number == 2 else 1, blocks(number))

    values = read_ahead(pieces())
    assert [next(values).item() for _ in range(2)] == [0, 1]
    assert len(begun) <= 2 + THREADS and 2 not in read
    assert [block.item() for block in values] == list(range(2, 50)) and sorted(read) == begun


def test_single_files_hold_what_the_corpus_does(here):
    files = {name: RowFiles(name) for name in ("out", "out.npz", "out.parquet")}
    expected = next(files["out"].blocks(8, 100))
    assert len(expected) == 8 and files["out"].note["model"] == "tiny"
    for name in ("out.npz", "out.parquet"):
        (rows,) = files[name].blocks(8, 100)
        np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-6)  # embedded in batches of their own
        assert files[name].places([5, 0, 7]) == files["out"].places([5, 0, 7])
        assert files[name].note is None


def test_an_npz_is_read_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo._row_files.SELECTION", 7)
    rows = np.random.default_rng(8).normal(size=(50, 3)).astype(np.float32)
    names = [f"{'x' * index}.wav" for index in range(50)]
    write(tmp_path / "out.npz", (Part(name, {"embeddings": row[None]}) for name, row in zip(names, rows, strict=True)))
    files = RowFiles(tmp_path / "out.npz")
    np.testing.assert_array_equal(np.concatenate(list(files.blocks(3, 8))), rows)
    assert files.places([49, 6, 7]) == [Place(names[number], None, None) for number in (49, 6, 7)]


def test_rows_of_ray_have_lists_of_any_kind_and_may_lack_values(tmp_path):
    kinds = {
        "fixed": pyarrow.list_(pyarrow.float32(), 2),
        "list": pyarrow.list_(pyarrow.float64()),
        "large": pyarrow.large_list(pyarrow.float16()),
    }
    values = [[1.0, 0.0], None, [0.0, 1.0], None]
    for name, kind in kinds.items():
        columns = {"files": pyarrow.array([b"a\xff", b"b", b"c", b"d"]), "embeddings": pyarrow.array(values, kind)}
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / f"{name}.parquet")
        files = RowFiles(tmp_path / f"{name}.parquet")
        assert nearest(files, np.array([0.0, 1.0], np.float32), 9) == ([2, 0], [1.0, 0.0])
        assert files.places([0]) == [Place(os.fsdecode(b"a\xff"), None, None)]


def test_a_name_comes_back_from_its_text():
    names = [
        os.fsdecode(b"\xff.wav"),
        r"\udcff.wav",
        r"\\udcff.wav",
        r"a\b.wav",
        os.fsdecode(b"\xff") + r"\udcff\\.wav",
    ]
    assert [path_of(utf8(name)) for name in names] == names


# The query and the model ----------------------------------------------------------------------------------------------


def test_a_recording_finds_itself(here, model):
    clip = zoo.load(model)
    for rows in ("out", "out.npz", "out.parquet"):
        for query in ("data/0.wav", pathlib.Path("data/0.wav"), pathlib.Path("data/0.wav").read_bytes()):
            first, *others = zoo.search(rows, query, clip, k=5)
            assert (first.file, first.start, first.end, len(others)) == ("data/0.wav", 0.0, 0.5, 4)
            assert first.similarity == pytest.approx(1.0, abs=1e-6)
            assert all(1.0 > one.similarity >= two.similarity for one, two in itertools.pairwise(others))


def test_a_long_recording_counts_by_the_mean_of_windows_as_long_as_the_rows(here, model, tmp_path):
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


def test_words_need_a_model_of_words(here, model):
    with pytest.raises(ValueError, match="tiny has no words: load a model of sounds and words"):
        zoo.search("out", "rain on a tent", zoo.load(model))


@pytest.mark.parametrize("text", ["rain on a tent", "0.5 s", "e.g. a dog", "data", "x" * 5000, "Regen, \u96e8", "a\0b"])
def test_what_is_no_path_is_words(here, text):
    assert is_words(text) and not is_words("data/0.wav")


def test_the_model_is_loaded_from_where_it_was(here, model, tmp_path):
    clip = zoo.load(model)
    assert zoo.search("out", "data/0.wav") == zoo.search("out", "data/0.wav", clip)
    shutil.copytree(model, tmp_path / "moved")
    assert main(["embed", "data", "-o", "out/", "--each", "window", "--model", str(tmp_path / "moved")]) == 0
    shutil.copytree("out", tmp_path / "out")
    note = tmp_path / "out" / "_run.json"
    note.write_text(note.read_text().replace(model, "nowhere/model"))
    with pytest.raises(ValueError, match="rows of the model 'tiny', which does not load from where it was: give the m"):
        zoo.search(tmp_path / "out", "data/0.wav")


def test_another_model_is_refused(here, model, tmp_path):
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
def test_what_is_no_query_is_a_sentence(here, model, query, error, fault):
    with pytest.raises(error, match=fault):
        zoo.search("out", query, zoo.load(model))


def test_k_is_at_least_one(here):
    with pytest.raises(ValueError, match="search takes k of at least 1, got 0"):
        zoo.search("out", "data/0.wav", k=0)


# Folders that hold no rows, and those that grow -----------------------------------------------------------------------


def test_what_holds_no_rows_is_a_sentence(here, model, tmp_path):
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


def test_a_corpus_is_searched_while_it_is_written(here, model, tmp_path):
    clip, folder = zoo.load(model), tmp_path / "out"
    shutil.copytree("out", folder)
    (folder / ".part-000001.1.parquet").write_text("half")
    assert len(zoo.search(folder, "data/0.wav", clip)) == 8
    shutil.copy(folder / "part-000000.parquet", folder / "part-000001.parquet")
    matches = zoo.search(folder, "data/0.wav", clip)
    assert len(matches) == 16 and matches[0] == matches[1]


# Shell ----------------------------------------------------------------------------------------------------------------


def test_the_shell_prints_what_python_gives(capsys, here, model):
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


def test_rows_without_times_are_printed_without(capsys, here, model, tmp_path):
    write(tmp_path / "out.npz", [Part("a", {"embeddings": np.ones((1, 8), np.float32)})])
    command = ["search", str(tmp_path / "out.npz"), "data/0.wav", "--model", model]
    for form, shown in {"--csv": "a,,,", "--json": '{"file": "a", "start": null, "end": null, "similarity": '}.items():
        assert main([*command, form]) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith(shown)
    assert main(command) == 0
    assert capsys.readouterr().out.split()[1:] == ["a"]


def test_twenty_rows_come_unless_told_otherwise_and_faults_exit_2(capsys, here, model, tmp_path):
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
