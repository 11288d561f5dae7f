"""`audax-zoo`: what its commands print and write, and their exit codes."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest
import soundfile

import zoo
from zoo.__main__ import main
from zoo._entry import skeleton
from zoo._weights import fill, named_leaves

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


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a model with seeded weights that hears 1 s at 16 kHz."""
    model, state = skeleton(TINY)
    shapes = {name: leaf.shape for name, leaf in named_leaves(model, state).items()}
    rng = np.random.default_rng(0)

    def value(name):
        if name.endswith("running_var"):
            return np.full(shapes[name], 100.0)
        return rng.normal(0.0, 0.3, shapes[name])

    folder = tmp_path_factory.mktemp("models") / "tiny"
    zoo.save(folder, *fill(model, state, value), TINY)
    return str(folder)


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
    assert main(["list", "*audioset"]) == 0
    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()] == ["name", "convnext_audioset"]


def test_info_tells_all_of_a_model(capsys):
    assert main(["info", "convnext_audioset"]) == 0
    out = capsys.readouterr().out
    for part in ("topel/ConvNeXt-Tiny-AT", "527", "MIT", "2306.00830", "0.471", "the publisher", "convnext_tiny"):
        assert part in out


def test_info_takes_a_folder(capsys, tiny):
    assert main(["info", tiny]) == 0
    assert "low, middle, high" in capsys.readouterr().out


def test_an_unknown_name_exits_2_and_suggests_one(capsys):
    assert main(["info", "convnext_audioset2"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("audax-zoo: ")
    assert "did you mean 'convnext_audioset'" in captured.err


@pytest.mark.parametrize("arguments", [[], ["sing"], ["tag"], ["tag", "-k", "0", "a.wav"], ["embed", "a.wav"]])
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


@pytest.mark.parametrize("samples, sample_rate", [(1, 16000), (256, 16000), (1, 44100), (700, 44100)])
def test_a_file_shorter_than_a_frame_is_reported(capsys, here, tiny, samples, sample_rate):
    soundfile.write("one.wav", np.full(samples, 0.1), sample_rate)
    assert main(["tag", "one.wav", "--model", tiny]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "less than one frame of 257" in captured.err


def test_a_rest_shorter_than_a_frame_is_left_out(capsys, here, tiny, clip):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 16100).astype(np.float32)
    soundfile.write("a.wav", wave, 16000, subtype="FLOAT")
    assert main(["tag", "a.wav", "--model", tiny, "--json"]) == 0
    (told,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    label, probability = clip.top(wave[:16000], k=1)[0]
    assert told["tags"][0]["label"] == label
    assert told["tags"][0]["probability"] == pytest.approx(probability, abs=2e-6)


def test_tag_with_an_unknown_model_exits_2(capsys, here):
    assert main(["tag", record("a.wav", 1.0), "--model", "convnext_esc"]) == 2
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
    centres = np.array([0.155, 0.475, 0.795])  # of 32 hops of 0.01 s
    times = np.concatenate([centres, 1 + centres, 2 + centres[:2], centres])
    np.testing.assert_allclose(columns["times"], times, rtol=1e-5)
    assert columns["files"].tolist() == ["a.wav"] * 8 + ["b.wav"] * 3
    np.testing.assert_allclose(columns["embeddings"][8:], clip.frames(zoo.read("b.wav", 16000)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        columns["embeddings"][3:6], clip.frames(zoo.read("a.wav", 16000)[16000:32000]), rtol=1e-5, atol=1e-6
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
        ("out.csv", r"embed writes .npz or .parquet, got 'out.csv'"),
        ("out", r"embed writes .npz or .parquet, got 'out'"),
        ("folder.npz", "folder.npz"),
    ],
)
def test_an_output_that_cannot_be_written_exits_2_before_any_work(capsys, here, output, fault):
    (here / "folder.npz").mkdir()
    assert main(["embed", "a.wav", "--model", "none", "-o", output]) == 2
    assert fault in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["folder.npz"]


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
