"""`audax-zoo embed -o OUT/`: a corpus in Parquet parts, however often and wherever its processes were stopped."""

import contextlib
import io
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pyarrow.parquet
import pytest
import soundfile

import zoo
from zoo import _corpus
from zoo.__main__ import main
from zoo._corpus import Shard
from zoo._lock import locked
from zoo._rows import utf8

ROOT = pathlib.Path(__file__).parents[1]
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


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record(folder, count, seconds=(0.2, 0.9)):
    """Writes recordings of noise, of different lengths, and gives their names."""
    rng = np.random.default_rng(0)
    pathlib.Path(folder).mkdir(exist_ok=True)
    names = [f"{folder}/{index:03}.wav" for index in range(count)]
    for name in names:
        soundfile.write(name, rng.uniform(-0.5, 0.5, round(rng.uniform(*seconds) * RATE)), RATE)
    return names


def rows(folder):
    """All rows of a corpus, as tuples, sorted; each part can be read by itself and all of them at once."""
    table = pyarrow.parquet.read_table(folder)
    assert table.num_rows == sum(pyarrow.parquet.read_table(part).num_rows for part in folder.glob("part*.parquet"))
    columns = table.to_pydict()
    values = zip(*(columns[name] for name in ("files", "starts", "ends", "embeddings")), strict=True)
    return sorted((file, start, end, tuple(np.float32(row))) for file, start, end, row in values)


def same(ours, theirs):
    """The same rows; the batches in which they were computed differ, and so may the last bits."""
    assert [row[:3] for row in ours] == [row[:3] for row in theirs]
    np.testing.assert_allclose(*(np.array([row[3] for row in each]) for each in (ours, theirs)), rtol=1e-5, atol=1e-6)


def embed(*arguments, model):
    return main(["embed", *arguments, "--model", model])


def test_a_corpus_holds_what_one_file_does(capsys, here, model):
    names = record("data", 9)
    assert embed("data", "-o", "out/", "--each", "window", "--hop", "0.25", model=model) == 0
    assert capsys.readouterr().out == "out: 9 recordings, 9 of them new\n"
    assert embed("data", "-o", "one.parquet", "--each", "window", "--hop", "0.25", model=model) == 0
    one = pyarrow.parquet.read_table("one.parquet")
    assert rows(here / "out") == sorted(
        (file, start, end, tuple(np.float32(row)))
        for file, start, end, row in zip(*(one[name].to_pylist() for name in one.column_names), strict=True)
    )
    assert one.column_names == ["files", "starts", "ends", "embeddings"]
    for result in zoo.embed(zoo.load(model), names, each="window", hop=0.25):
        chosen = [row for row in rows(here / "out") if row[0] == result.source]
        assert [row[1:3] for row in chosen] == list(zip(result.start, result.end, strict=True))
        np.testing.assert_allclose([row[3] for row in chosen], result.values, rtol=1e-5, atol=1e-6)
    assert sorted(os.listdir("out")) == [".lock", "_run.json", "part-000000.parquet"]
    assert json.loads(pathlib.Path("out/_run.json").read_text())["hop"] == 0.25


def test_the_same_command_goes_on_and_reads_nothing_twice(capsys, here, model):
    names = record("data", 6)
    assert embed(*names[:4], names[0], "-o", "out", model=model) == 0
    before = rows(here / "out")
    for name in names[:4]:
        pathlib.Path(name).write_text("no sound any more")
    assert embed("data", "-o", "out", model=model) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "out: 6 recordings, 2 of them new"
    after = rows(here / "out")
    assert [row[0] for row in after] == names and set(before) < set(after)


def test_failures_are_a_table_and_are_tried_again(capsys, here, model):
    record("data", 3)
    content = pathlib.Path("data/001.wav").read_bytes()
    pathlib.Path("data/001.wav").write_text("no sound")
    pathlib.Path("list").write_text("data/000.wav\ndata/001.wav\ndata/none.wav\r\ndata/002.wav")
    assert embed("--from", "list", "-o", "out", model=model) == 1
    captured = capsys.readouterr()
    assert "2 of 4 files could not be read" in captured.err
    assert captured.out == "out: 2 recordings, 2 of them new, 2 cannot be read (out/_failures.csv)\n"
    lines = pathlib.Path("out/_failures.csv").read_text().splitlines()
    assert lines[0] == "files,errors" and lines[2] == "data/none.wav,data/none.wav is not a file."
    assert lines[1].startswith("data/001.wav,data/001.wav cannot be read as sound")
    pathlib.Path("data/001.wav").write_bytes(content)
    assert embed("--from", "list", "-o", "out", model=model) == 1
    assert [row[0] for row in rows(here / "out")] == ["data/000.wav", "data/001.wav", "data/002.wav"]
    assert pathlib.Path("out/_failures.csv").read_text().splitlines() == [lines[0], lines[2]]


SCRIPT = """
import sys
from zoo import _corpus
from zoo.__main__ import main
_corpus.SECONDS = 0.02
sys.exit(main(sys.argv[1:]))
"""


def test_killed_again_and_again_it_ends_with_the_rows_of_one_run(here, model):
    record("data", 20)
    for index in range(20, 900):
        pathlib.Path(f"data/{index:03}.wav").symlink_to(f"{index % 20:03}.wav")
    for parts in (1, 4):
        process = start("-o", "out", "--model", model)
        while process.poll() is None and len(list(here.glob("out/part*"))) < parts:
            time.sleep(0.01)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    killed = {row[0] for row in rows(here / "out")}
    assert 0 < len(killed) < 900
    (here / "out" / ".part-000099.1.parquet").write_text("half")  # as a killed process leaves it
    assert embed("data", "-o", "out", model=model) == 0
    assert embed("data", "-o", "whole", model=model) == 0
    same(rows(here / "out"), rows(here / "whole"))
    assert not list(here.glob("out/.part*"))


@pytest.mark.parametrize("first", [0, 1])
def test_three_shards_are_the_whole(capsys, here, model, first):
    record("data", 30)
    shares = []
    for index in range(first, first + 3):
        assert embed("data", "-o", "out", "--shard", f"{index}/3", model=model) == 0
        shares.append({row[0] for row in rows(here / "out")})
    assert len(shares[0]) < len(shares[1]) < len(shares[2])
    assert embed("data", "-o", "whole", model=model) == 0
    same(rows(here / "out"), rows(here / "whole"))
    capsys.readouterr()
    assert embed("data", "-o", "out", model=model) == 2
    assert "out holds rows of shards 3 instead of 1: give the options of its _run.json" in capsys.readouterr().err


def test_a_share_is_the_same_on_all_machines_and_about_equal():
    files = [f"{folder}/{index}.wav" for folder in "ab" for index in range(2000)]
    sizes = [sum(map(Shard(index, 8).has, files)) for index in range(8)]
    assert sum(sizes) == len(files) and max(sizes) < 1.2 * min(sizes)
    assert [index for index in range(8) if Shard(index, 8).has("a/1.wav")] == [7]  # by BLAKE2, not by Python's hash


@pytest.mark.parametrize("share", ["3", "4/3", "-1/3", "0/0", "a/b", "1/3/5"])
def test_what_is_no_share_exits_2(capsys, here, share):
    with pytest.raises(SystemExit, match="2"):
        main(["embed", ".", "-o", "out", f"--shard={share}"])
    assert "takes a share and the number of shares" in capsys.readouterr().err


def test_other_options_or_another_model_are_refused(capsys, here, model, tmp_path):
    names = record("data", 2)
    assert embed(*names, "-o", "out", model=model) == 0
    other = str(tmp_path / "tiny")
    zoo.save(other, *zoo.create(ENTRY, key=jax.random.key(1)), ENTRY)  # of the same name
    for options, fault in [
        (["--hop", "0.1", "--model", model], "out holds rows of hop 0.5 instead of 0.1: "),
        (["--each", "frame", "--model", model], "each 'recording' instead of 'frame' and hop 0.5 instead of None: "),
        (["--precision", "bfloat16", "--model", model], "precision 'float32' instead of 'bfloat16': "),
        (["--model", other], "holds rows of weights '"),
        (["--model", "resnet_fsdd"], "holds rows of model 'tiny' instead of 'resnet_fsdd' and weights '"),
    ]:
        capsys.readouterr()
        assert main(["embed", *names, "-o", "out", *options]) == 2
        error = capsys.readouterr().err
        assert fault in error and error.count("\n") == 1
    assert embed(*names, "-o", "out", "--window", "0.5", "--batch", "2", "--workers", "1", model=model) == 0


def test_a_folder_of_other_things_is_refused(capsys, here, model):
    names = record("data", 1)
    for output, fault in [
        ("data", "data holds '000.wav' and no _run.json of a corpus: name a new or an empty folder."),
        ("data/000.wav/", "data/000.wav is a file: name a folder for a corpus."),
        ("out.csv", "end the name of a folder with /."),
    ]:
        assert embed(*names, "-o", output, model=model) == 2
        assert fault in capsys.readouterr().err
    assert os.listdir("data") == ["000.wav"]
    assert embed(*names, "-o", "out.csv/", model=model) == 0


def test_a_part_that_is_not_whole_is_a_sentence(capsys, here, model):
    names = record("data", 2)
    assert embed(names[0], "-o", "out", model=model) == 0
    part = here / "out" / "part-000000.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    capsys.readouterr()
    assert embed(*names, "-o", "out", model=model) == 2
    assert "out/part-000000.parquet is not whole" in capsys.readouterr().err
    part.unlink()
    assert embed(*names, "-o", "out", model=model) == 0
    assert [row[0] for row in rows(here / "out")] == names


def test_two_processes_in_one_folder_are_refused(capsys, here, model):
    names = record("data", 2)
    pathlib.Path("out").mkdir()
    with locked(pathlib.Path("out")):
        assert embed(*names, "-o", "out", model=model) == 2
    assert "out is in use by another process: wait until it ends" in capsys.readouterr().err
    with locked(pathlib.Path("out"), ".lock-1-of-2"):
        assert embed(*names, "-o", "out", "--shard", "0/2", model=model) == 0
        assert embed(*names, "-o", "out", "--shard", "1/2", model=model) == 2


def test_a_full_disk_is_a_sentence_and_costs_nothing(capsys, here, model):
    names = record("data", 300, (0.1, 0.2))
    assert embed(*names[:5], "-o", "out", model=model) == 0
    capsys.readouterr()
    before, limits = rows(here / "out"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # a write beyond fails, as on a full disk
    try:
        code = embed("data", "-o", "out", model=model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    error = capsys.readouterr().err
    assert "audax-zoo: out cannot be written: File too large. It holds whole rows of 5 recordings: make room" in error
    assert rows(here / "out") == before and not list(here.glob("out/.part*"))
    assert embed("data", "-o", "out", model=model) == 0
    assert [row[0] for row in rows(here / "out")] == names


def test_names_of_all_kinds_have_rows_once(here, model):
    (source,) = record("data", 1)
    names = [b"caf\xe9.wav", "\u9ce5 \U0001f426.wav".encode(), b"a\nb.wav", b"$x$ [1].wav", b" "]
    for name in names:
        os.link(source, b"data/" + name)
    listed = b"\0".join(b"data/" + name for name in names)
    pathlib.Path("list").write_bytes(listed + b"\0")
    for _ in range(2):
        assert embed("--from", "list", "-o", "out", model=model) == 0
    assert {row[0] for row in rows(here / "out")} == {
        "data/caf\\udce9.wav", "data/\u9ce5 \U0001f426.wav", "data/a\nb.wav", "data/$x$ [1].wav", "data/ ",
    }  # fmt: skip
    assert len(rows(here / "out")) == 5


def test_each_name_has_a_text_of_its_own():
    names = [os.fsdecode(b"\xff.wav"), r"\udcff.wav", r"\\udcff.wav", r"a\b.wav", os.fsdecode(b"\xff") + r"\udcff.wav"]
    assert len({utf8(name) for name in names}) == len(names)
    assert utf8(r"a\b.wav") == r"a\b.wav" and utf8(names[0]) == r"\udcff.wav"


def test_a_note_that_is_none_is_a_sentence(capsys, here, model):
    names = record("data", 1)
    for text, fault in (("[]", "_run.json is no note of a corpus"), ("{", "_run.json is not JSON")):
        pathlib.Path("out").mkdir(exist_ok=True)
        pathlib.Path("out/_run.json").write_text(text)
        assert embed(*names, "-o", "out", model=model) == 2
        assert fault in capsys.readouterr().err


@pytest.mark.parametrize("output", ["out.npz", "out.parquet"])
def test_a_full_disk_is_a_sentence_for_one_file_too(capsys, here, model, output):
    names, limits = record("data", 200, (0.1, 0.2)), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    try:
        code = embed(*names, "-o", output, model=model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2 and os.listdir(here) == ["data"]
    assert f"audax-zoo: {output} cannot be written: File too large. Nothing is kept" in capsys.readouterr().err


def test_an_empty_share_is_no_fault(capsys, here, model):
    (name,) = record("data", 1)
    empty = next(index for index in range(2) if not Shard(index, 2).has(name))
    for output in ("out.npz", "out"):
        assert embed(name, "-o", output, "--shard", f"{empty}/2", model=model) == 0
    assert "out.npz is not written because this share or list has no recordings." in capsys.readouterr().err


def test_paths_come_from_stdin_as_they_are_found(capsys, here, model, monkeypatch):
    names = record("data", 3)
    for text in ("\n".join(names), "\0".join(names)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(text.encode()))))
        assert embed("--from", "-", "-o", "out", model=model) == 0
    assert [row[0] for row in rows(here / "out")] == names
    assert capsys.readouterr().out.splitlines() == [
        "out: 3 recordings, 3 of them new",
        "out: 3 recordings, 0 of them new",
    ]


def test_no_recordings_are_a_sentence(capsys, here, model):
    assert embed("-o", "out", model=model) == 2
    assert "No recordings: name files or folders, or a list of them, --from LIST." in capsys.readouterr().err
    assert not os.path.exists("out")


def test_parts_grow_with_the_time(here, monkeypatch):
    """Parts are closed after two seconds at first, and after a fiftieth of the time later on."""
    seconds = iter(np.arange(0.0, 10000.0, 1.0))
    monkeypatch.setattr(_corpus.time, "monotonic", lambda: next(seconds))
    with _corpus.opened(here / "out", {}, Shard()) as corpus:
        value = {"starts": np.zeros(1), "ends": np.ones(1), "embeddings": np.zeros((1, 2), np.float32)}
        corpus.write(_corpus.Part(f"{index}.wav", value) for index in range(2000))
    sizes = [pyarrow.parquet.read_metadata(part).num_rows for part in sorted((here / "out").glob("part*"))]
    assert sum(sizes) == 2000 and sizes[0] <= 2 and 30 <= max(sizes) <= 40


def links(count):
    """One recording under many names."""
    record("data", 1)
    for index in range(1, count):
        pathlib.Path(f"data/{index:03}.wav").symlink_to("000.wav")


def start(*arguments):
    """A process of the command, which closes parts all the time."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "embed", "data", *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="open files are read from Linux's /proc")
def test_an_interruption_ends_a_file_with_the_rows_so_far(here, model):
    links(5000)
    process = start("-o", "out.npz", "--model", model)
    while not waiting(process, here):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130 and "audax-zoo: interrupted\n" in error
    with np.load("out.npz") as columns:
        assert 0 < len(columns["files"]) == len(columns["embeddings"]) < 5000
        assert f"out.npz has the first {len(columns['files'])} recordings: write a folder, -o out/, to go on" in error


def waiting(process, folder):
    """Bytes in the process's open files of the folder that have no name, and become arrays of the .npz."""
    size = 0
    for descriptor in pathlib.Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            target = os.readlink(descriptor)
            if target.startswith(str(folder)) and target.endswith("(deleted)"):
                size += descriptor.stat().st_size
    return size


def test_a_signal_closes_the_part(here, model):
    links(5000)
    process = start("-o", "out", "--model", model)
    while not list(here.glob("out/part*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, error = process.communicate()
    assert error == "audax-zoo: interrupted\n" and process.returncode == 128 + signal.SIGTERM
    count = len(rows(here / "out"))
    assert 0 < count < 5000 and output == f"out: {count} recordings, {count} of them new\n"
