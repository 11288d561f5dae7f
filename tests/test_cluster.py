"""`zoo.Embedder`: batches of rows as Ray Data gives them, and docs/scale.md on a real Ray, which loses an actor."""

import contextlib
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile

import numpy as np
import pages
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

import zoo

MODEL, RATE = "resnet_fsdd", 8000
TYPES = {
    "files": "string",
    "starts": "double",
    "ends": "double",
    "embeddings": "fixed_size_list<item: float>[128]",
    "errors": "string",
}


@pytest.fixture(scope="module")
def embedder():
    return zoo.Embedder(MODEL, each="window", hop=0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sounds of 0.1 to 2.5 s, and some files that are none."""
    folder = tmp_path_factory.mktemp("sounds") / "recordings"
    folder.mkdir()
    for number in range(60):
        wave = np.random.default_rng(number).uniform(-0.5, 0.5, 800 + 320 * number)
        soundfile.write(folder / f"sound {number} é.wav", wave, RATE)
    for number in range(4):
        (folder / f"broken {number}.wav").write_bytes(b"no sound" * number)
    return folder


def objects(*values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def types(table):
    return {field.name: str(field.type) for field in table.schema}


def matrix(table):
    """The embeddings of a table without failures."""
    return np.array(table["embeddings"].to_pylist(), np.float32)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


# Batches --------------------------------------------------------------------------------------------------------------


def test_rows_are_those_of_embed(embedder, folder):
    paths = [folder / f"sound {number} é.wav" for number in (0, 59, 30)]
    batch = {"path": objects(*map(str, paths)), "bytes": objects(*(path.read_bytes() for path in paths))}
    expected = list(zoo.embed(zoo.load(MODEL), paths, each="window", hop=0.5))
    rows = [str(result.source) for result in expected for _ in result.values]
    assert len(rows) > len(paths)
    for columns in (["path", "bytes"], ["path"], ["bytes"]):
        table = embedder({name: batch[name] for name in columns})
        assert types(table) == TYPES
        assert table["files"].to_pylist() == (rows if "path" in columns else [None] * len(rows))
        for name in ("starts", "ends"):
            seconds = np.concatenate([getattr(result, name[:-1]) for result in expected])
            assert table[name].to_pylist() == seconds.tolist()
        close(matrix(table), np.concatenate([result.values for result in expected]))
        assert table["errors"].null_count == len(rows)


@pytest.mark.parametrize("each, rows", [("recording", 1), ("frame", 40)])
def test_what_has_a_row(each, rows, folder):
    path = str(folder / "sound 30 é.wav")
    (expected,) = zoo.embed(zoo.load(MODEL), [path], each=each)
    embedder = zoo.Embedder(MODEL, each=each)
    table = embedder({"path": np.array([path])})
    close(matrix(table), expected.values)
    assert types(table) == types(embedder({"path": np.array(["none.wav"])}))
    assert table.num_rows == len(expected.values) and (table.num_rows > 1) == (rows > 1)


def test_what_cannot_be_read_is_a_row_with_the_reason(embedder, folder, tmp_path):
    good = (folder / "sound 3 é.wav").read_bytes()
    batch = {"path": objects("none.wav", "empty", "good", None, None), "bytes": objects(None, b"", good, good, None)}
    table = embedder(batch)
    assert table["errors"].to_pylist() == [
        "none.wav is not a file.",
        "empty cannot be read as sound: Format not recognised.",
        None,
        None,
        "The row has neither bytes nor a path.",
    ]
    for name in ("starts", "ends", "embeddings"):
        assert table[name].is_null().to_pylist() == [True, True, False, False, True]
    failures = embedder({"path": np.array(["none.wav"]), "bytes": np.full(1, np.nan, np.float32)})  # all null, of Ray
    empty = embedder({"path": objects(), "bytes": objects()})
    assert failures["errors"].to_pylist() == ["none.wav is not a file."] and empty.num_rows == 0
    assert table.schema == failures.schema == empty.schema
    for number, part in enumerate((failures, table)):
        pyarrow.parquet.write_table(part, tmp_path / f"{number}.parquet")
    assert pyarrow.parquet.read_table(tmp_path).equals(pyarrow.concat_tables([failures, table]))


def test_names_that_are_not_utf8(embedder, folder, tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    shutil.copy(folder / "sound 3 é.wav", name)
    table = embedder({"path": objects(name, name + b".gone", None)})
    assert table["files"].to_pylist() == [name, name + b".gone", None]
    assert table["errors"].to_pylist()[:2] == [None, rf"{tmp_path}/caf\udce9.wav.gone is not a file."]
    table = embedder({"path": objects(os.fsdecode(name))})
    assert table["files"].to_pylist() == [rf"{tmp_path}/caf\udce9.wav"] and table["errors"].null_count == 1


def test_other_columns_go_along(embedder, folder):
    paths = objects(str(folder / "sound 59 é.wav"), "none.wav")
    others = {
        "label": objects("dog", None),
        "fold": np.array([3, 4], np.int8),
        "map": np.arange(12.0).reshape(2, 2, 3),
        "tags": objects(["a", "b"], []),
    }
    table = embedder({"path": paths, **others})
    first = table.num_rows - 1
    assert list(TYPES) + list(others) == table.column_names and first > 1
    for name, column in others.items():
        assert table[name].to_pylist() == [column.tolist()[0]] * first + [column.tolist()[1]]
    arrow = pyarrow.table(
        {"path": paths, "label": pyarrow.array(["dog", None]).dictionary_encode(), "none": [None] * 2}
    )
    passed = embedder(arrow)
    assert passed["label"].type == arrow["label"].type and passed["none"].type == pyarrow.null()
    assert passed["label"].to_pylist() == ["dog"] * first + [None]


@pytest.mark.parametrize(
    "batch, kind, sentence",
    [
        (
            {"id": np.zeros(2), "name": objects("a", "b")},
            ValueError,
            "rows with the column bytes or path, got id, name",
        ),
        ({}, ValueError, "got no columns"),
        ({"path": objects("a"), "starts": np.zeros(1)}, ValueError, "and rows have starts already"),
        ({"path": objects("a"), "errors": np.zeros(1), "files": np.zeros(1)}, ValueError, "have files, errors already"),
        ({"path": np.arange(2)}, TypeError, "takes path of the type str or bytes, got int"),
        ({"bytes": objects("a.wav")}, TypeError, "takes bytes of the type bytes, got str"),
        ({"bytes": np.array([b"RIFF\0"])}, TypeError, "lose the zeros at their end: give it dtype=object"),
        (objects("a"), TypeError, "tables of Arrow, got a ndarray: leave batch_format out"),
    ],
)
def test_a_batch_without_recordings(embedder, batch, kind, sentence):
    with pytest.raises(kind, match=sentence):
        embedder(batch)


@pytest.mark.parametrize(
    "options, kind, sentence",
    [
        ({"hop": 0.0}, ValueError, "hop=0.0 is the distance of windows in seconds"),
        ({"each": "second"}, ValueError, "each='second' is none of 'recording', 'window', 'frame'"),
        ({"hops": 1.0}, TypeError, "'hops'"),
        ({"errors": "raise"}, TypeError, "leave the option errors out"),
    ],
)
def test_options_are_checked_when_it_is_made(options, kind, sentence):
    with pytest.raises(kind, match=sentence):
        zoo.Embedder(MODEL, **options)
    with pytest.raises(ValueError, match="resnet_fsdd"):
        zoo.Embedder("resnet_fsd")


def test_the_class_goes_to_other_processes_by_name():
    assert pickle.loads(pickle.dumps(zoo.Embedder)) is zoo.Embedder


# Ray ------------------------------------------------------------------------------------------------------------------

# One of two actors is killed once both are there, when a batch is computed and none of its rows is given back
KILLED = """
import os, pathlib, signal, sys, time
import ray, zoo

place = pathlib.Path.cwd()
size = {"num_cpus": 4, "object_store_memory": 100 << 20}
ray.init("local", include_dashboard=False, log_to_driver=False, _temp_dir=sys.argv[1], **size)

class Mortal(zoo.Embedder):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        (place / "actors" / str(os.getpid())).touch()

    def __call__(self, batch):
        rows = super().__call__(batch)
        while len(os.listdir(place / "actors")) < 2:
            time.sleep(0.05)
        try:
            (place / "killed").touch(exist_ok=False)
        except FileExistsError:
            return rows
        os.kill(os.getpid(), signal.SIGKILL)

zoo.Embedder = Mortal
names = {}
for block in sys.argv[2:]:
    exec(block, names)
(place / "read").write_text(str(names["table"].num_rows))
assert names["paths"].count() == 64
"""


@pytest.fixture
def temporary():
    """A folder whose name is so short that those of Ray's sockets in it stay below 107 characters."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


def processes(folder):
    """The ids of processes that were started with the name of a folder."""
    for line in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if os.fsencode(folder) in line.read_bytes():
                yield int(line.parent.name)


def test_no_row_is_lost_or_doubled_when_an_actor_is_killed(folder, temporary, tmp_path):
    shutil.copytree(folder, tmp_path / "recordings")
    (tmp_path / "actors").mkdir()
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(pages.ROOT), "XLA_FLAGS": " ".join(flags)}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0"}
    blocks = [block for _, block in pages.blocks(pages.ROOT / "docs" / "scale.md")]
    try:
        run = subprocess.run(
            [sys.executable, "-c", KILLED, temporary, *blocks],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
    finally:
        for process in processes(temporary):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "killed").exists() and len(list((tmp_path / "actors").iterdir())) == 3
    table = pyarrow.parquet.read_table(tmp_path / "embeddings")
    assert types(table) == TYPES | {"embeddings": "fixed_size_list<element: float>[128]"}
    rows = {(row["files"], row["starts"]): row for row in table.to_pylist()}
    paths = sorted(map(str, (tmp_path / "recordings").iterdir()))
    results = list(zoo.embed(zoo.load(MODEL), paths, each="window", hop=0.5, errors="keep"))
    failures = {(result.source, None): result.error for result in results if result.error}
    expected = {
        (each.source, start): value for each in results for start, value in zip(each.start, each.values, strict=True)
    }
    assert len(table) == len(rows) and set(rows) == set(expected) | set(failures) and len(failures) == 4
    assert {key: row["errors"] for key, row in rows.items() if row["errors"]} == failures
    close([rows[key]["embeddings"] for key in expected], list(expected.values()))
    assert int((tmp_path / "read").read_text()) == len(expected)
