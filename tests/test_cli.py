"""`audax-zoo`: what its commands print and write, and their exit codes."""

import dataclasses
import io
import json
import os
import pathlib
import subprocess
import sys

import msgpack
import numpy as np
import pyarrow.parquet
import pytest
import soundfile

import zoo
from zoo import _batches, hear
from zoo.__main__ import main
from zoo._create import skeleton
from zoo._leaves import fill, named_leaves
from zoo._search import sounds

ROOT = pathlib.Path(__file__).parents[1]
TINY = zoo.Entry(
    name="tiny",
    frontend={"type": "LogMel", "sample_rate": 16000, "bins": 32, "n_fft": 512, "hop_length": 160},
    network={
        "type": "ConvNeXt",
        "depths": (1, 1, 1, 1),
        "widths": (8, 8, 16, 16),
        "input_norm": 32,
        "pool": "mean_max",
    },
    classes=3,
    task="multiclass",
    window=1.0,
    labels=("low", "middle", "high"),
)


def saved(entry, folder):
    """The folder of a model with seeded weights."""
    model, state = skeleton(entry)
    shapes = {name: leaf.shape for name, leaf in named_leaves(model, state).items()}
    rng = np.random.default_rng(0)

    def value(name):
        if name.endswith("running_var"):
            return np.full(shapes[name], 100.0)
        return rng.normal(0.0, 0.3, shapes[name])

    zoo.save(folder, *fill(model, state, value), entry)
    return str(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a model that hears 1 s at 16 kHz."""
    return saved(TINY, tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def clip(tiny):
    return zoo.load(tiny)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record(name, seconds, seed=0, sample_rate=16000):
    """Writes noise that fades, so that windows differ, and gives the file's name."""
    samples = round(seconds * sample_rate)
    wave = np.random.default_rng(seed).uniform(-0.5, 0.5, samples) * np.linspace(1, 0.01, samples)
    soundfile.write(name, wave, sample_rate)
    return name


def run(*arguments, folder):
    """A process of its own."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def weighted_mean(file, clip, function):
    """The mean of `function` over the file's windows by their length, in float64."""
    parts = list(zoo.windows(file, clip.sample_rate, clip.entry.window))
    return sum(np.asarray(function(wave), np.float64) * count for wave, count in parts) / sum(
        count for _, count in parts
    )


# list, info


def test_list_is_a_table_of_the_models(capsys):
    assert main(["list"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["name", "task", "classes"]
    assert [row.split()[0] for row in rows] == zoo.list_models()
    (row,) = [row for row in rows if row.startswith("convnext_audioset ")]
    for part in ("multilabel", "527", "32000", "10 s", "MIT", "mAP 0.471"):
        assert part in row


def test_list_takes_a_pattern(capsys):
    assert main(["list", "panns_c*audioset"]) == 0
    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()] == [
        "name",
        "panns_cnn10_audioset",
        "panns_cnn14_audioset",
    ]


def test_info_tells_all_of_a_model(capsys):
    assert main(["info", "convnext_audioset"]) == 0
    out = capsys.readouterr().out
    for part in ("topel/ConvNeXt-Tiny-AT", "527", "MIT", "2306.00830", "0.471", "the publisher", "convnext_tiny"):
        assert part in out


def test_info_tells_where_the_labels_are(capsys):
    for name, place in (
        ("ast_audioset", "config.json of MIT/ast"),
        ("panns_cnn10_audioset", "csv of topel/ConvNeXt"),
        ("timm/resnet18.a1_in1k", "none, because the classes are ImageNet's"),
    ):
        assert main(["info", name]) == 0
        (row,) = [row for row in capsys.readouterr().out.splitlines() if row.startswith("labels:")]
        assert place in row


def test_info_takes_a_folder(capsys, tiny):
    assert main(["info", tiny]) == 0
    assert "low, middle, high" in capsys.readouterr().out


def test_an_unknown_name_exits_2_and_suggests_one(capsys):
    assert main(["info", "convnext_audioset2"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("audax-zoo: ")
    assert "did you mean 'convnext_audioset'" in captured.err


@pytest.mark.parametrize("arguments", [[], ["sing"], ["embed"], ["tag", "-k", "0", "a.wav"], ["embed", "a.wav"]])
def test_what_is_no_command_exits_2_with_the_usage(capsys, arguments):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: audax-zoo" in capsys.readouterr().err


def test_the_module_runs_as_a_program_and_exits_with_the_code(tmp_path):
    done = run("-m", "zoo", "info", "convnext_audioset2", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("audax-zoo: The zoo has no model 'convnext_audioset2'")


# tag


def test_tag_prints_the_labels_of_one_window(capsys, here, tiny, clip):
    file = record("a.wav", 1.0)
    assert main(["tag", file, "--model", tiny, "-k", "2"]) == 0
    name, *lines = capsys.readouterr().out.splitlines()
    assert name == "a.wav"
    top = clip.top(zoo.read(file, 16000), k=2)
    assert [line.split(maxsplit=1)[1] for line in lines] == [label for label, _ in top]
    for line, (_, probability) in zip(lines, top, strict=True):
        assert float(line.split()[0]) == pytest.approx(probability, abs=6e-4)


def test_tag_prints_json_and_averages_windows_by_length(capsys, here, tiny, clip):
    files = [record("a.wav", 2.5), record("b.flac", 1.75, seed=1, sample_rate=44100)]
    assert main(["tag", *files, "--model", tiny, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == files
    for line in lines:
        assert line.keys() == {"file", "model", "tags"}
        assert line["model"] == "tiny"
        told = {tag["label"]: tag["probability"] for tag in line["tags"]}
        mean = weighted_mean(line["file"], clip, clip.probabilities)
        np.testing.assert_allclose([told[label] for label in TINY.labels], mean, atol=2e-6)
        assert list(told.values()) == sorted(told.values(), reverse=True)


def test_tag_reports_unreadable_files_at_the_end_and_goes_on(capsys, here, tiny):
    pathlib.Path("text.wav").write_text("no sound")
    files = [record("a.wav", 1.0), "text.wav", "none.wav", record("b.wav", 1.0, seed=1)]
    assert main(["tag", *files, "--model", tiny, "--json"]) == 1
    captured = capsys.readouterr()
    assert [json.loads(line)["file"] for line in captured.out.splitlines()] == ["a.wav", "b.wav"]
    assert "2 of 4 files could not be read" in captured.err
    assert "text.wav cannot be read as sound" in captured.err
    assert "none.wav is not a file" in captured.err


@pytest.mark.parametrize("samples, sample_rate", [(1, 16000), (256, 16000), (2, 44100), (700, 44100)])
def test_a_file_shorter_than_a_frame_is_heard_in_silence(capsys, here, tiny, clip, samples, sample_rate):
    soundfile.write("one.wav", np.full(samples, 0.1), sample_rate)
    assert main(["tag", "one.wav", "--model", tiny, "--json"]) == 0
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    wave = zoo.read("one.wav", 16000)
    top = clip.top(np.pad(wave, (0, 16000 - len(wave))), k=1)[0]
    assert row["tags"][0] == {"label": top[0], "probability": pytest.approx(top[1], abs=2e-6)}


def test_a_file_of_less_than_a_sample_is_reported(capsys, here, tiny):
    soundfile.write("one.wav", np.full(1, 0.1), 44100)
    assert main(["tag", "one.wav", "--model", tiny]) == 1
    assert "  one.wav is shorter than one sample at 16000 Hz." in capsys.readouterr().err


@pytest.mark.parametrize("rest", [1, 100, 1599])
def test_a_rest_shorter_than_a_tenth_of_a_window_is_not_heard_on_its_own(capsys, here, tiny, clip, rest):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 16000 + rest).astype(np.float32)
    soundfile.write("a.wav", wave, 16000, subtype="FLOAT")
    assert main(["tag", "a.wav", "--model", tiny, "--json"]) == 0
    (told,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    label, probability = clip.top(wave[:16000], k=1)[0]
    assert told["tags"][0]["label"] == label
    assert told["tags"][0]["probability"] == pytest.approx(probability, abs=2e-6)


def test_tag_with_an_unknown_model_exits_2(capsys, here):
    assert main(["tag", record("a.wav", 1.0), "--model", "resnet_esc"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_plot_writes_a_picture_and_nothing_else(capsys, here, tiny):
    assert main(["tag", record("a.wav", 2.5), "--model", tiny, "--plot", "a.png"]) == 0
    assert pathlib.Path("a.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert sorted(path.name for path in here.iterdir()) == ["a.png", "a.wav"]


def test_a_plot_of_no_sound_leaves_the_old_picture(capsys, here, tiny):
    pathlib.Path("a.png").write_bytes(b"old")
    pathlib.Path("text.wav").write_text("no sound")
    assert main(["tag", "text.wav", "--model", tiny, "--plot", "a.png"]) == 1
    assert pathlib.Path("a.png").read_bytes() == b"old"
    assert sorted(path.name for path in here.iterdir()) == ["a.png", "text.wav"]


def test_plot_of_two_files_exits_2_before_any_work(capsys, here):
    assert main(["tag", "a.wav", "b.wav", "--model", "none", "--plot", "a.png"]) == 2
    assert "--plot draws one file, got 2" in capsys.readouterr().err


def test_plot_into_no_folder_exits_2_before_any_work(capsys, here):
    assert main(["tag", "a.wav", "--model", "none", "--plot", "none/a.png"]) == 2
    assert "none/a.png cannot be written" in capsys.readouterr().err


# embed


def test_embed_of_one_window_is_the_clips_embedding(capsys, here, tiny, clip):
    file = record("a.wav", 1.0)
    assert main(["embed", file, "--model", tiny, "-o", "out.npz"]) == 0
    with np.load("out.npz") as columns:
        assert columns["files"].tolist() == ["a.wav"]
        assert columns["embeddings"].dtype == np.float32
        np.testing.assert_allclose(columns["embeddings"], [clip.embed(zoo.read(file, 16000))], rtol=1e-6)
    assert sorted(path.name for path in here.iterdir()) == ["a.wav", "out.npz"]


def test_embed_averages_windows_by_length(capsys, here, tiny, clip):
    file = record("a.wav", 2.25)
    assert main(["embed", file, "--model", tiny, "-o", "out.npz"]) == 0
    with np.load("out.npz") as columns:
        np.testing.assert_allclose(columns["embeddings"][0], weighted_mean(file, clip, clip.embed), atol=1e-5)


def test_embed_searches_folders_and_parquet_holds_what_npz_does(capsys, here, tiny):
    (here / "sounds" / "deep").mkdir(parents=True)
    record("sounds/b.FLAC", 1.0, seed=1)
    record("sounds/a.wav", 1.5, seed=2)
    record("sounds/deep/c.ogg", 1.0, seed=3)
    (here / "sounds" / "notes.txt").write_text("no sound")
    single = record("z.wav", 1.0, seed=4)
    for output in ("out.npz", "out.parquet"):
        assert main(["embed", single, "sounds", "--model", tiny, "-o", output]) == 0
    table = pyarrow.parquet.read_table("out.parquet").to_pydict()
    with np.load("out.npz") as columns:
        assert columns["files"].tolist() == ["z.wav", "sounds/a.wav", "sounds/b.FLAC", "sounds/deep/c.ogg"]
        assert table["files"] == columns["files"].tolist()
        np.testing.assert_array_equal(np.asarray(table["embeddings"], np.float32), columns["embeddings"])
        assert len(np.unique(columns["embeddings"], axis=0)) == 4


def test_embed_of_a_folder_without_sounds_exits_2(capsys, here, tiny):
    (here / "sounds").mkdir()
    assert main(["embed", "sounds", "--model", tiny, "-o", "out.npz"]) == 2
    assert "sounds holds no sound files" in capsys.readouterr().err


def test_embed_of_frames_keeps_a_file_shorter_than_a_frame_of_the_network(capsys, here, tiny):
    files = [record("a.wav", 0.05), record("b.wav", 1.0)]
    assert main(["embed", *files, "--model", tiny, "--frames", "-o", "out.npz"]) == 0
    columns = np.load("out.npz")
    assert list(columns["files"]).count("a.wav") == 1
    assert len(columns["times"]) == len(columns["embeddings"]) == len(columns["files"])


def test_a_file_without_a_header_does_not_cost_the_others(capsys, here, tiny):
    pathlib.Path("noise.raw").write_bytes(bytes(range(256)) * 100)
    files = ["noise.raw", record("a.wav", 1.0)]
    assert main(["embed", *files, "--model", tiny, "-o", "out.npz"]) == 1
    assert list(np.load("out.npz")["files"]) == ["a.wav"]
    assert "noise.raw cannot be read as sound" in capsys.readouterr().err


def test_a_folder_is_searched_for_files_with_a_header(capsys, here, tiny):
    pathlib.Path("noise.raw").write_bytes(bytes(1000))
    record("a.wav", 1.0)
    assert main(["embed", ".", "--model", tiny, "-o", "out.npz"]) == 0
    assert list(np.load("out.npz")["files"]) == ["a.wav"]


@pytest.mark.parametrize("output", ["out.npz", "out.parquet"])
def test_embed_of_frames_has_times_within_the_file(capsys, here, tiny, clip, output):
    files = [record("a.wav", 2.5), record("b.wav", 1.0, seed=1)]
    assert main(["embed", *files, "--model", tiny, "--frames", "-o", output]) == 0
    if output.endswith("npz"):
        with np.load(output) as columns:
            columns = {name: columns[name] for name in columns.files}
    else:
        columns = {name: np.asarray(values) for name, values in pyarrow.parquet.read_table(output).to_pydict().items()}
    grid = 0.155 + 0.32 * np.arange(8)  # 32 hops of 0.01 s
    np.testing.assert_allclose(columns["times"], np.concatenate([grid, grid[:3]]), rtol=1e-5)
    assert columns["files"].tolist() == ["a.wav"] * 8 + ["b.wav"] * 3
    np.testing.assert_allclose(columns["embeddings"][8:], clip.frames(zoo.read("b.wav", 16000)), rtol=1e-5, atol=1e-6)
    start = 3 * 5120  # the second window begins with the fourth frame
    np.testing.assert_allclose(
        columns["embeddings"][3:6], clip.frames(zoo.read("a.wav", 16000)[start:][:16000]), rtol=1e-5, atol=1e-6
    )


def test_embed_writes_what_it_could_read(capsys, here, tiny):
    files = [record("a.wav", 1.0), "none.wav"]
    assert main(["embed", *files, "--model", tiny, "-o", "out.npz"]) == 1
    with np.load("out.npz") as columns:
        assert columns["files"].tolist() == ["a.wav"]
    assert "1 of 2 files could not be read" in capsys.readouterr().err


def test_embed_of_nothing_readable_leaves_the_old_output(capsys, here, tiny):
    pathlib.Path("out.npz").write_bytes(b"old")
    assert main(["embed", "none.wav", "--model", tiny, "-o", "out.npz"]) == 2
    assert "none.wav is not a file" in capsys.readouterr().err
    assert pathlib.Path("out.npz").read_bytes() == b"old"


@pytest.mark.parametrize(
    "output, fault",
    [
        ("none/out.npz", "none/out.npz cannot be written"),
        ("out.csv", r"embed writes .npz or .parquet, or the parts of a corpus into a folder, got 'out.csv'"),
        ("folder.npz", "folder.npz"),
    ],
)
def test_an_output_that_cannot_be_written_exits_2_before_any_work(capsys, here, output, fault):
    (here / "folder.npz").mkdir()
    assert main(["embed", "a.wav", "--model", "none", "-o", output]) == 2
    assert fault in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["folder.npz"]


# recordings, folders and names


@pytest.mark.parametrize("seconds", [0.1, 0.7, 1.0, 1.05, 1.6, 2.1])
def test_the_shell_and_hear_give_one_answer(capsys, here, tiny, seconds):
    file = record("a.wav", seconds)
    assert main(["embed", file, "--model", tiny, "-o", "out.npz"]) == 0
    scene = hear.get_scene_embeddings(zoo.read(file, 16000)[None], hear.load_model(tiny))
    np.testing.assert_allclose(np.load("out.npz")["embeddings"], scene, rtol=1e-4, atol=1e-5)


def test_a_bug_is_not_reported_as_an_unreadable_file(here, tiny, monkeypatch):
    for error in (TypeError("a bug"), ValueError("a bug"), KeyError("a bug")):
        monkeypatch.setattr(_batches, "_program", lambda *_, error=error: (_ for _ in ()).throw(error))
        if isinstance(error, ValueError):
            assert main(["embed", record("a.wav", 1.0), "--model", tiny, "-o", "out.npz"]) == 2
        else:
            with pytest.raises(type(error), match="a bug"):
                main(["embed", record("a.wav", 1.0), "--model", tiny, "-o", "out.npz"])


def test_what_does_not_exist_is_told_at_once(capsys, here):
    for command in (["tag"], ["embed", "-o", "out.npz"]):
        assert main([*command, "none.wav", "no/folder"]) == 2  # before the model is fetched
        assert capsys.readouterr().err == "audax-zoo: none.wav is not a file. no/folder is not a file.\n"


def test_a_missing_file_among_others_is_told_first(capsys, here, tiny, monkeypatch):
    monkeypatch.setattr(zoo, "load", lambda name: pytest.fail(capsys.readouterr().err))
    with pytest.raises(pytest.fail.Exception, match=r"none\.wav is not a file"):
        main(["embed", record("a.wav", 1.0), "none.wav", "--model", tiny, "-o", "out.npz"])


def test_a_search_follows_links_but_not_in_circles_and_says_what_it_leaves_out(capsys, here):
    for folder in ("data/deep", "elsewhere/below"):
        (here / folder).mkdir(parents=True)
    names = ["a.wav", "b.wave", "c.aifc", "d.SND", "e.sph", "f.bwf", "g.iff", "h.mp2", "deep/i.Opus"]
    names += ["j.m4a", "k.m4a", "l.WebM"]  # tests/test_ffmpeg.py has those who lack the extra
    for name in (*names, "m.txt", "n"):
        (here / "data" / name).touch()
    (here / "elsewhere" / "below" / "z.wav").touch()
    (here / "data" / "2023").symlink_to("../elsewhere")
    (here / "data" / "again").symlink_to("../elsewhere")  # a folder is searched once
    (here / "data" / "a link to deep").symlink_to("deep")
    (here / "elsewhere" / "back").symlink_to("../data")
    (here / "data" / "self").symlink_to("self")
    assert sounds(["data"]) == sorted(f"data/{name}" for name in (*names, "2023/below/z.wav"))
    told = capsys.readouterr().err
    assert told == "audax-zoo: data holds other files, which are left out: 2 without a suffix, 1 .txt.\n"


def test_a_folder_with_pipes_and_links_to_themselves_is_embedded(capsys, here, tiny):
    (here / "data").mkdir()
    soundfile.write(here / "data" / "a.wav", np.zeros(16000), 16000)
    (here / "data" / "self.wav").symlink_to("self.wav")
    os.mkfifo(here / "data" / "pipe.wav")
    assert main(["embed", "data", "--model", tiny, "-o", "out.npz"]) == 1
    error = capsys.readouterr().err
    assert "data/pipe.wav is no regular file, and is left out" in error
    assert "data/self.wav cannot be opened: Too many levels of symbolic links" in error
    assert np.load("out.npz")["files"].tolist() == ["data/a.wav"]


def test_an_empty_folder_beside_others_costs_nothing(capsys, here, tiny):
    for name in ("data", "empty"):
        (here / name).mkdir()
    soundfile.write(here / "data" / "a.wav", np.zeros(16000), 16000)
    assert main(["tag", "empty", "data", "--model", tiny, "-k", "1"]) == 0
    assert "data/a.wav" in capsys.readouterr().out


def test_a_folder_of_sounds_alone_needs_no_word(capsys, here):
    (here / "a.wav").touch()
    assert sounds(["."]) == ["a.wav"]
    assert capsys.readouterr().err == ""


NAMES = [b"caf\xe9.wav", "\u9ce5.wav".encode(), b"$a$ [b].wav"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have names in Unicode")


@linux
def test_any_name_is_tagged_embedded_and_plotted(capsys, here, tiny):
    names, content = [os.fsdecode(name) for name in NAMES], pathlib.Path(record("a.wav", 1.0)).read_bytes()
    pathlib.Path("a.wav").unlink()
    for name in names:
        pathlib.Path(name).write_bytes(content)
    assert main(["tag", ".", "--model", tiny, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == sorted(names)
    for output in ("out.npz", "out.parquet"):
        assert main(["embed", *names, "--model", tiny, "-o", output]) == 0
    assert np.load("out.npz")["files"].tolist() == names
    table = pyarrow.parquet.read_table("out.parquet").to_pydict()
    assert table["files"] == ["caf\\udce9.wav", *names[1:]]  # its text is UTF-8
    for name in names:
        assert main(["tag", name, "--model", tiny, "--plot", "out.png"]) == 0


@linux
@pytest.mark.parametrize("encoding, shown", [
    ("utf-8", [rb"caf\udce9.wav", *NAMES[1:]]),
    ("cp1252", [rb"caf\udce9.wav", rb"\u9ce5.wav", NAMES[2]]),
    ("ascii", [rb"caf\udce9.wav", rb"\u9ce5.wav", NAMES[2]]),
])  # fmt: skip
def test_an_output_that_cannot_hold_a_name_loses_no_result(here, tiny, monkeypatch, encoding, shown):
    record("a.wav", 1.0)
    for name in NAMES:
        pathlib.Path(os.fsdecode(name)).write_bytes(pathlib.Path("a.wav").read_bytes())
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding=encoding, newline="\n"))
    assert main(["tag", *map(os.fsdecode, NAMES), "--model", tiny, "-k", "1"]) == 0
    assert output.getvalue().splitlines()[::2] == shown


def test_a_warning_is_a_line(capsys, here, tiny):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 16000)
    soundfile.write("a.wav", np.stack([wave, -wave], axis=1), 16000)
    assert main(["tag", "a.wav", "--model", tiny]) == 0
    told = (
        "audax-zoo: a.wav has channels in opposite phase, whose mean is silent: read one channel, or turn one around.\n"
    )
    assert capsys.readouterr().err == told


# contrastive models


@pytest.fixture(scope="module")
def cola(tmp_path_factory):
    """The folder of a model without classes."""
    entry = dataclasses.replace(
        TINY, name="cola", model={"type": "COLA", "width": 6}, classes=0, task="contrastive", labels=()
    )
    return saved(entry, tmp_path_factory.mktemp("models") / "cola")


def test_tag_with_a_contrastive_model_exits_2_before_any_work(capsys, here, cola):
    assert main(["tag", "none.wav", "--model", cola]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"audax-zoo: {cola} has no classes and names no sounds: use it with audax-zoo embed.\n"


def test_embed_with_a_contrastive_model_is_its_networks_embedding(capsys, here, cola):
    file = record("a.wav", 1.0)
    assert main(["embed", file, "--model", cola, "-o", "out.npz"]) == 0
    assert "1 embeddings of width 16" in capsys.readouterr().out
    with np.load("out.npz") as columns:
        np.testing.assert_allclose(columns["embeddings"], [zoo.load(cola).embed(zoo.read(file, 16000))], rtol=1e-6)


def test_info_of_a_contrastive_model(capsys, cola):
    assert main(["info", cola]) == 0
    out = capsys.readouterr().out
    assert "contrastive" in out and "type=COLA, width=6" in out
    assert "label file" not in out


# convert


def checkpoint(name, classes):
    """Writes a small ResNet of audax, with the arrays of Flax's msgpack, and gives its name; 0 classes are COLA's."""
    generator = np.random.default_rng(0)

    def array(*shape):
        values = generator.standard_normal(shape).astype(np.float32)
        return msgpack.ExtType(1, msgpack.packb((shape, "float32", values.tobytes())))

    def layers(width):
        norm = {"scale": array(width), "bias": array(width)}
        return norm, {
            "mean": array(width),
            "var": msgpack.ExtType(1, msgpack.packb(((width,), "float32", np.ones(width, np.float32).tobytes()))),
        }

    encoder, statistics, before = {"conv_init": {"kernel": array(7, 7, 1, 4)}}, {}, 4
    encoder["bn_init"], statistics["bn_init"] = layers(4)
    for index, width in enumerate((4, 8)):
        block = {"Conv_0": {"kernel": array(3, 3, before, width)}, "Conv_1": {"kernel": array(3, 3, width, width)}}
        moving = {}
        for norm in ("BatchNorm_0", "BatchNorm_1", *(("norm_proj",) if index else ())):
            block[norm], moving[norm] = layers(width)
        if index:
            block["conv_proj"] = {"kernel": array(1, 1, before, width)}
        encoder[f"ResNetBlock_{index}"], statistics[f"ResNetBlock_{index}"], before = block, moving, width
    head = (
        {"fc": {"kernel": array(8, classes), "bias": array(classes)}}
        if classes
        else {"embedding_fc": {"kernel": array(8, 5)}}
    )
    state = {
        "step": 1,
        "params": {"encoder": encoder, **head},
        "frozen_params": {},
        "batch_stats": {"encoder": statistics},
    }
    pathlib.Path(name).write_bytes(msgpack.packb(state))
    return name


def test_convert_writes_a_folder_that_tags(capsys, here):
    pathlib.Path("labels.txt").write_text("dog\ncat\n", encoding="utf-8")
    options = ["--labels", "labels.txt", "--task", "multilabel", "--window", "0.5", "--sample-rate", "22050"]
    assert main(["convert", checkpoint("checkpoint_7", 2), "made", *options]) == 0
    assert capsys.readouterr().out == "made: audax_log_mel, ResNet, Classifier with 2 classes\n"
    entry = zoo.info("made")
    assert (entry.name, entry.labels, entry.task) == ("made", ("dog", "cat"), "multilabel")
    assert (entry.window, entry.sample_rate) == (0.5, 22050)
    assert entry.network["depths"] == (1, 1)
    assert main(["tag", record("a.wav", 0.5, sample_rate=22050), "--model", "made", "--json"]) == 0
    (told,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {tag["label"] for tag in told["tags"]} == {"dog", "cat"}


def test_convert_without_options_takes_audaxs_own_settings(capsys, here):
    assert main(["convert", checkpoint("checkpoint_7", 3), "made"]) == 0
    entry = zoo.info("made")
    assert (entry.classes, entry.labels, entry.task) == (3, (), "multiclass")
    assert (entry.window, entry.sample_rate) == (5.0, 16000)


@pytest.mark.parametrize("options, model", [([], "COLA"), (["--model", "SimCLR"], "SimCLR")])
def test_convert_is_told_which_contrastive_model_it_is(capsys, here, options, model):
    assert main(["convert", checkpoint("checkpoint_7", 0), "made", *options]) == 0
    assert capsys.readouterr().out == f"made: audax_log_mel, ResNet, {model}\n"
    assert zoo.info("made").model["type"] == model


@pytest.mark.parametrize(
    "source, options, fault",
    [
        ("none", [], "none does not exist"),
        (".", [], "is a folder: name the checkpoint in it"),
        ("text", [], "text is not a whole audax checkpoint"),
        ("source", ["--labels", "none.txt"], "none.txt"),
        ("source", ["--labels", "text"], "2 classes and 1 labels"),
        ("source", ["--window", "0"], "a window of some seconds"),
        ("source", ["--window", "-1"], "a window of some seconds"),
    ],
)
def test_what_cannot_be_converted_exits_2_with_a_sentence(capsys, here, source, options, fault):
    checkpoint("source", 2)
    pathlib.Path("text").write_text("no checkpoint")
    assert main(["convert", source, "made", *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("audax-zoo: ") and captured.err.count("\n") == 1
    assert fault in captured.err
    assert sorted(path.name for path in here.iterdir()) == ["source", "text"]


def test_convert_into_no_folder_exits_2(capsys, here):
    assert main(["convert", checkpoint("source", 2), "none/made"]) == 2
    assert "none is no folder, so made cannot be made there" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [["source"], ["source", "made", "--task", "guess"], ["source", "made", "--model", "CLAP"]]
)
def test_convert_with_wrong_options_exits_2_with_the_usage(capsys, here, options):
    with pytest.raises(SystemExit, match="2"):
        main(["convert", *options])
    assert "usage: audax-zoo convert" in capsys.readouterr().err


def test_labels_may_be_in_any_line_ending_and_script(capsys, here):
    pathlib.Path("labels.txt").write_bytes("Hündin\r\n猫\r\n".encode())
    assert main(["convert", checkpoint("source", 2), "made", "--labels", "labels.txt"]) == 0
    assert zoo.info("made").labels == ("Hündin", "猫")


HOUR = """
import sys
from zoo.__main__ import main
code = main(["embed", "hour.flac", "--model", sys.argv[1], "-o", "out.npz"])
with open("/proc/self/status") as status:
    print(next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM")))
sys.exit(code)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from Linux's /proc")
def test_an_hour_is_embedded_in_little_memory(tiny, tmp_path):
    minute = 0.1 * np.sin(2 * np.pi * 300 * np.arange(60 * 16000) / 16000)
    with soundfile.SoundFile(tmp_path / "hour.flac", "w", 16000, 1) as file:
        for index in range(60):
            file.write(minute * (index % 10 == 0))
    done = run("-c", HOUR, tiny, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 600  # the hour itself has 230
    with np.load(tmp_path / "out.npz") as columns:
        assert columns["embeddings"].shape == (1, 16)
        assert np.isfinite(columns["embeddings"]).all()


def test_without_files_the_packaged_sound_is_tagged(capsys):
    assert main(["tag", "-k", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["file"] == str(zoo.example())
    assert {each["label"] for each in found["tags"]} == {"rain", "clock_tick"}


def test_a_picture_without_matplotlib_is_told_before_the_work(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "zoo._plot", raising=False)
    assert main(["tag", "--plot", str(tmp_path / "x.png")]) == 2
    assert 'A picture needs matplotlib: pip install "audax-eqx[plot]".' in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell closes the output")
def test_a_closed_output_is_no_fault(here, tiny):
    record("a.wav", 1.0)
    for command in ("tag a.wav --csv", "detect a.wav"):
        line = f"{sys.executable} -m zoo {command} --model {tiny} >&-"
        done = subprocess.run(line, shell=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (0, b"")
