"""`audax-zoo embed` into a folder: rows, failures, shares, options and names."""

import io
import json
import os
import pathlib
import sys

import jax
import numpy as np
import pyarrow.parquet
import pytest
from corpora import embed, record, rows, same
from tiny_resnet import ENTRY, save

import zoo
from zoo.__main__ import main
from zoo._corpus import Shard
from zoo._lock import locked
from zoo._rows import utf8


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a model."""
    return save(tmp_path_factory.mktemp("models"))


def test_a_corpus_holds_what_one_file_does(capsys, workdir, model):
    names = record("data", 9)
    assert embed("data", "-o", "out/", "--each", "window", "--hop", "0.25", model=model) == 0
    assert capsys.readouterr().out == "out: 9 recordings, 9 of them new\n"
    assert embed("data", "-o", "one.parquet", "--each", "window", "--hop", "0.25", model=model) == 0
    one = pyarrow.parquet.read_table("one.parquet")
    assert rows(workdir / "out") == sorted(
        (file, start, end, tuple(np.float32(row)))
        for file, start, end, row in zip(*(one[name].to_pylist() for name in one.column_names), strict=True)
    )
    assert one.column_names == ["files", "starts", "ends", "embeddings"]
    for result in zoo.embed(zoo.load(model), names, each="window", hop=0.25):
        chosen = [row for row in rows(workdir / "out") if row[0] == result.source]
        assert [row[1:3] for row in chosen] == list(zip(result.start, result.end, strict=True))
        np.testing.assert_allclose([row[3] for row in chosen], result.values, rtol=1e-5, atol=1e-6)
    assert sorted(os.listdir("out")) == [".lock", "_run.json", "part-000000.parquet"]
    assert json.loads(pathlib.Path("out/_run.json").read_text())["hop"] == 0.25


def test_the_same_command_goes_on_and_reads_nothing_twice(capsys, workdir, model):
    names = record("data", 6)
    assert embed(*names[:4], names[0], "-o", "out", model=model) == 0
    before = rows(workdir / "out")
    for name in names[:4]:
        pathlib.Path(name).write_text("no sound any more")
    assert embed("data", "-o", "out", model=model) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "out: 6 recordings, 2 of them new"
    after = rows(workdir / "out")
    assert [row[0] for row in after] == names and set(before) < set(after)


def test_failures_are_a_table_and_are_tried_again(capsys, workdir, model):
    record("data", 3)
    content = pathlib.Path("data/001.wav").read_bytes()
    pathlib.Path("data/001.wav").write_text("no sound")
    pathlib.Path("list").write_text("data/000.wav\ndata/001.wav\ndata/none.wav\r\ndata/002.wav")
    assert embed("--from", "list", "-o", "out", model=model) == 1
    output = capsys.readouterr()
    assert "2 of 4 files could not be read" in output.err
    assert output.out == "out: 2 recordings, 2 of them new, 2 cannot be read (out/_failures.csv)\n"
    lines = pathlib.Path("out/_failures.csv").read_text().splitlines()
    assert lines[0] == "files,errors" and lines[2] == "data/none.wav,data/none.wav is not a file."
    assert lines[1].startswith("data/001.wav,data/001.wav cannot be read as sound")
    pathlib.Path("data/001.wav").write_bytes(content)
    assert embed("--from", "list", "-o", "out", model=model) == 1
    assert [row[0] for row in rows(workdir / "out")] == ["data/000.wav", "data/001.wav", "data/002.wav"]
    assert pathlib.Path("out/_failures.csv").read_text().splitlines() == [lines[0], lines[2]]


@pytest.mark.parametrize("first", [0, 1])
def test_three_shards_are_the_whole(capsys, workdir, model, first):
    record("data", 30)
    shares = []
    for index in range(first, first + 3):
        assert embed("data", "-o", "out", "--shard", f"{index}/3", model=model) == 0
        shares.append({row[0] for row in rows(workdir / "out")})
    assert len(shares[0]) < len(shares[1]) < len(shares[2])
    assert embed("data", "-o", "whole", model=model) == 0
    same(rows(workdir / "out"), rows(workdir / "whole"))
    capsys.readouterr()
    assert embed("data", "-o", "out", model=model) == 2
    assert "out holds rows of shards 3 instead of 1: give the options of its _run.json" in capsys.readouterr().err


def test_a_share_is_the_same_on_all_machines_and_about_equal():
    files = [f"{folder}/{index}.wav" for folder in "ab" for index in range(2000)]
    sizes = [sum(map(Shard(index, 8).has, files)) for index in range(8)]
    assert sum(sizes) == len(files) and max(sizes) < 1.2 * min(sizes)
    assert [index for index in range(8) if Shard(index, 8).has("a/1.wav")] == [7]  # by BLAKE2, not by Python's hash


@pytest.mark.parametrize("share", ["3", "4/3", "-1/3", "0/0", "a/b", "1/3/5"])
def test_what_is_no_share_exits_2(capsys, workdir, share):
    with pytest.raises(SystemExit, match="2"):
        main(["embed", ".", "-o", "out", f"--shard={share}"])
    assert "takes a share and the number of shares" in capsys.readouterr().err


def test_other_options_or_another_model_are_refused(capsys, workdir, model, tmp_path):
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


def test_a_folder_of_other_things_is_refused(capsys, workdir, model):
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


def test_a_part_that_is_not_whole_is_a_sentence(capsys, workdir, model):
    names = record("data", 2)
    assert embed(names[0], "-o", "out", model=model) == 0
    part = workdir / "out" / "part-000000.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    capsys.readouterr()
    assert embed(*names, "-o", "out", model=model) == 2
    assert "out/part-000000.parquet is not whole" in capsys.readouterr().err
    part.unlink()
    assert embed(*names, "-o", "out", model=model) == 0
    assert [row[0] for row in rows(workdir / "out")] == names


def test_two_processes_in_one_folder_are_refused(capsys, workdir, model):
    names = record("data", 2)
    pathlib.Path("out").mkdir()
    with locked(pathlib.Path("out")):
        assert embed(*names, "-o", "out", model=model) == 2
    assert "out is in use by another process: wait until it ends" in capsys.readouterr().err
    with locked(pathlib.Path("out"), ".lock-1-of-2"):
        assert embed(*names, "-o", "out", "--shard", "0/2", model=model) == 0
        assert embed(*names, "-o", "out", "--shard", "1/2", model=model) == 2


def test_names_of_all_kinds_have_rows_once(workdir, model):
    (source,) = record("data", 1)
    names = [b"caf\xe9.wav", "\u9ce5 \U0001f426.wav".encode(), b"a\nb.wav", b"$x$ [1].wav", b" "]
    for name in names:
        os.link(source, b"data/" + name)
    listed = b"\0".join(b"data/" + name for name in names)
    pathlib.Path("list").write_bytes(listed + b"\0")
    for _ in range(2):
        assert embed("--from", "list", "-o", "out", model=model) == 0
    assert {row[0] for row in rows(workdir / "out")} == {
        "data/caf\\udce9.wav", "data/\u9ce5 \U0001f426.wav", "data/a\nb.wav", "data/$x$ [1].wav", "data/ ",
    }  # fmt: skip
    assert len(rows(workdir / "out")) == 5


def test_each_name_has_a_text_of_its_own():
    names = [os.fsdecode(b"\xff.wav"), r"\udcff.wav", r"\\udcff.wav", r"a\b.wav", os.fsdecode(b"\xff") + r"\udcff.wav"]
    assert len({utf8(name) for name in names}) == len(names)
    assert utf8(r"a\b.wav") == r"a\b.wav" and utf8(names[0]) == r"\udcff.wav"


def test_a_note_that_is_none_is_a_sentence(capsys, workdir, model):
    names = record("data", 1)
    for text, fault in (("[]", "_run.json is no note of a corpus"), ("{", "_run.json is not JSON")):
        pathlib.Path("out").mkdir(exist_ok=True)
        pathlib.Path("out/_run.json").write_text(text)
        assert embed(*names, "-o", "out", model=model) == 2
        assert fault in capsys.readouterr().err


def test_an_empty_share_is_no_fault(capsys, workdir, model):
    (name,) = record("data", 1)
    empty = next(index for index in range(2) if not Shard(index, 2).has(name))
    for output in ("out.npz", "out"):
        assert embed(name, "-o", output, "--shard", f"{empty}/2", model=model) == 0
    assert "out.npz is not written because this share or list has no recordings." in capsys.readouterr().err


def test_paths_come_from_stdin_as_they_are_found(capsys, workdir, model, monkeypatch):
    names = record("data", 3)
    for text in ("\n".join(names), "\0".join(names)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(text.encode()))))
        assert embed("--from", "-", "-o", "out", model=model) == 0
    assert [row[0] for row in rows(workdir / "out")] == names
    assert capsys.readouterr().out.splitlines() == [
        "out: 3 recordings, 3 of them new",
        "out: 3 recordings, 0 of them new",
    ]


def test_no_recordings_are_a_sentence(capsys, workdir, model):
    assert embed("-o", "out", model=model) == 2
    assert "No recordings: name files or folders, or a list of them, --from LIST." in capsys.readouterr().err
    assert not os.path.exists("out")
