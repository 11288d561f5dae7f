"""Speed of whole files: `zoo.embed` beside the bare batch and beside torch, memory, and the second call from the shell.

    python benchmarks/recordings.py [--peer PYTHON] [--folder ../shared/data/esc10] [--rounds 5] [--only PATTERN]

- "engine" rows compare the windows/s of `zoo.embed` over files with those of the bare batch: the jitted program that
  `zoo.embed` runs, on waves in memory. ConvNeXt-Tiny should reach 0.9 of it. The small packaged model computes faster
  than files are decoded, so that decoding sets its rate.
- "batches" rows measure the bare batch at several sizes. The size that `zoo.embed` takes on CPU rests on them.
- "files to embeddings" rows compare the seconds of CNN14 and AST, with random weights, with those of the same networks
  on torch; a ratio below 1 is faster. torch runs in inference mode with one thread for each core, on batches of 4 from
  a DataLoader with as many workers as `zoo.embed` has threads. The workers decode by soundfile and resample by
  torchaudio. CNN14 computes torchaudio's MelSpectrogram of a batch. AST is transformers' ASTModel; the workers compute
  torchaudio's kaldi.fbank of each whole recording and pad it.
- "memory" measures the highest memory of `audax-zoo embed FOLDER -o OUT/` over 200 and 20,000 links to recordings.
- "second audax-zoo tag" measures the seconds of that command in a fresh process, with its programs in the cache.

`--peer` is a Python with soundfile, torch, torchaudio and transformers, which may belong to another environment. If it
lacks one of them, the rows that compare with torch are left out. The sides take turns. Medians go to
`benchmarks/results/recordings.json`, with the load of the machine; with `--only` the other rows of that file stay as
they are. `--small` tries everything with small models and few files.
"""

import argparse
import fnmatch
import functools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

from cpu import Runner, save_random, serve

ROOT = pathlib.Path(__file__).resolve().parents[1]
CORES = os.cpu_count() or 1
MODELS = {
    "ConvNeXt-Tiny": "convnext_audioset",
    "CNN14": "panns_cnn14_audioset",
    "AST": "ast_audioset",
    "resnet_esc10": "resnet_esc10",
}
FILES = {"ConvNeXt-Tiny": 64, "CNN14": 48, "AST": 16, "resnet_esc10": 320}
RATES = {"CNN14": 32000, "AST": 16000}
BATCHES, BATCH_WINDOWS = (1, 2, 4, 8), 8
PEER_BATCH = 4
COUNTS = (200, 20_000)
if SMALL := "--small" in sys.argv:
    MODELS, FILES = dict.fromkeys(MODELS, "resnet_fsdd"), dict.fromkeys(FILES, 4)
    COUNTS = (3, 6)
PEAK = """
import sys
from zoo.__main__ import main
code = main(sys.argv[1:])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
sys.exit(code)
"""


def ours(folder: pathlib.Path):
    """Our jobs: functions by name.

    "files" runs the engine over files. "window" and "bare" return the seconds of a window, by the engine and by the
    bare batch. A number in place of "bare" is another size of the batch.
    """
    import equinox as eqx
    import jax
    import numpy as np

    import zoo
    from zoo._batches import batch_size
    from zoo._pretrained import embedding

    @functools.cache
    def model(name):
        entry = zoo.info(MODELS[name])
        if entry.checkpoint is None:
            return zoo.load(entry.name)
        random_model, state = zoo.create(entry, key=jax.random.key(0))
        return zoo.Pretrained(eqx.nn.inference_mode(random_model), state, entry)

    @functools.cache
    def program(name):
        arrays, static = eqx.partition(model(name), eqx.is_array)
        run = jax.jit(lambda arrays, waves: jax.vmap(lambda wave: embedding(eqx.combine(arrays, static), wave))(waves))
        return functools.partial(run, arrays)

    @functools.cache
    def waves(name, batch):
        shape = (batch, round(model(name).entry.window * model(name).sample_rate))
        return jax.device_put(0.1 * np.random.default_rng(0).normal(size=shape).astype(np.float32))

    def engine(name):
        results = zoo.embed(model(name), take(sounds(folder), FILES[name]), each="window", workers=CORES)
        return sum(len(result.values) for result in results)

    def window(name):
        start = time.perf_counter()
        windows = engine(name)
        return (time.perf_counter() - start) / windows

    def bare(name, batch, windows):
        start = time.perf_counter()
        for _ in range(-(-windows // batch)):
            program(name)(waves(name, batch)).block_until_ready()
        return (time.perf_counter() - start) / (-(-windows // batch) * batch)

    work = {f"files {name}": functools.partial(engine, name) for name in MODELS}
    for name in MODELS:
        work[f"window {name}"] = functools.partial(window, name)
        work[f"bare {name}"] = functools.partial(bare, name, batch_size(jax.local_devices()), FILES[name])
        for batch in BATCHES:
            work[f"{batch} {name}"] = functools.partial(bare, name, batch, BATCH_WINDOWS)
    return work


def peers(folder: pathlib.Path):
    """The peer's jobs: "files" runs a network on torch from files to embeddings."""
    import soundfile
    import torch
    import torchaudio
    import transformers
    from torch import nn

    torch.set_num_threads(CORES)

    class Recordings(torch.utils.data.Dataset):
        def __init__(self, paths, rate, prepare):
            self.paths, self.rate, self.prepare, self.resample = paths, rate, prepare, {}

        def __len__(self):
            return len(self.paths)

        def __getitem__(self, index):
            wave, rate = soundfile.read(self.paths[index], dtype="float32", always_2d=True)
            if rate not in self.resample:  # computes the filter once for each rate
                self.resample[rate] = torchaudio.transforms.Resample(rate, self.rate)
            return self.prepare(self.resample[rate](torch.from_numpy(wave).mean(dim=1)))

    def fit(x, length):
        """The first `length` rows, with rows of zeros behind a shorter `x`."""
        return nn.functional.pad(x[:length], (*[0, 0] * (x.ndim - 1), 0, max(length - len(x), 0)))

    def fbank(wave):
        bins = torchaudio.compliance.kaldi.fbank(
            wave[None] - wave.mean(), sample_frequency=16000, num_mel_bins=128, window_type="hanning", htk_compat=True,
            use_energy=False, dither=0.0,
        )  # fmt: skip
        return (fit(bins, 1024) + 4.2677393) / (2 * 4.5689974)

    def block(inputs, outputs):
        layers = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(True)]
        second = [nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(True)]
        return nn.Sequential(*layers, *second)

    class CNN14(nn.Module):
        def __init__(self):
            super().__init__()
            self.mel = torchaudio.transforms.MelSpectrogram(
                32000, 1024, hop_length=320, f_min=50.0, f_max=14000.0, n_mels=64, mel_scale="slaney", norm="slaney"
            )
            self.decibel = torchaudio.transforms.AmplitudeToDB(top_db=None)
            self.norm = nn.BatchNorm2d(64)
            widths = (1, 64, 128, 256, 512, 1024, 2048)
            self.blocks = nn.ModuleList(map(block, widths[:-1], widths[1:]))
            self.embed = nn.Linear(2048, 2048)

        def forward(self, waves):
            x = self.decibel(self.mel(waves))[:, :, None]  # batch, bins, 1, frames
            x = self.norm(x).permute(0, 2, 3, 1)
            for index, layer in enumerate(self.blocks):
                x = layer(x)
                x = nn.functional.avg_pool2d(x, 2) if index < 5 else x
            x = x.mean(dim=3)
            return torch.relu(self.embed(x.amax(dim=2) + x.mean(dim=2)))

    networks = {"CNN14": CNN14().eval(), "AST": transformers.ASTModel(transformers.ASTConfig()).eval()}
    prepare = {"CNN14": lambda wave: fit(wave, 320000), "AST": fbank}

    def embed(name):
        dataset = Recordings(take(sounds(folder), FILES[name]), RATES[name], prepare[name])
        loader = torch.utils.data.DataLoader(dataset, batch_size=PEER_BATCH, num_workers=CORES)
        with torch.inference_mode():
            for batch in loader:
                output = networks[name](batch)
                (output if name == "CNN14" else output.pooler_output).numpy()

    return {f"files {name}": functools.partial(embed, name) for name in networks}


def sounds(folder: pathlib.Path) -> list[str]:
    """The paths of all recordings below the folder, sorted."""
    return sorted(str(path) for path in folder.rglob("*") if path.suffix in (".ogg", ".wav", ".flac"))


def take(paths: list[str], count: int) -> list[str]:
    """`count` of the paths, which repeat from the first one on if there are too few."""
    return (paths * -(-count // len(paths)))[:count]


class Report:
    """The results, which are written after each row."""

    def __init__(self, path: pathlib.Path, rounds: int):
        self.path, self.rounds = path, rounds
        self.results = json.loads(path.read_text()) if path.exists() else {}
        self.results["machine"] = f"{platform.processor() or platform.machine()}, {CORES} cores"

    def add_row(self, name: str, sentence: str, **numbers: float) -> None:
        """Adds or replaces a row of numbers, and prints the sentence."""
        load = os.getloadavg()[0]
        print(f"{name:34} {sentence}   load {load:.1f}", flush=True)
        row = {key: round(number, 4) for key, number in numbers.items()}
        self.results[name] = row | {"load": round(load, 1), "rounds": self.rounds}
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(json.dumps(self.results, indent=2) + "\n")


class Benchmark:
    """The rows by name, each with the method that measures it and the name of a model."""

    def __init__(self, options: argparse.Namespace, temporary: str):
        self.options, self.temporary, self.report = options, temporary, Report(options.output, options.rounds)
        self.rows = {f"engine, {name}": (self.engine, name) for name in ("ConvNeXt-Tiny", "resnet_esc10")}
        self.rows |= {f"files to embeddings, {name}": (self.files, name) for name in RATES}
        self.rows |= {f"batches, {name}": (self.batches, name) for name in MODELS}
        self.rows |= {"memory": (self.memory, ""), "second audax-zoo tag": (self.second_call, "")}

    def run(self) -> None:
        for row in fnmatch.filter(self.rows, self.options.only):
            measure, name = self.rows[row]
            measure(row, name)

    @functools.cached_property
    def our_runner(self) -> Runner:
        return self._runner(sys.executable, "ours")

    @functools.cached_property
    def peer_runner(self) -> Runner | None:
        imports = "import soundfile, torch, torchaudio, transformers"
        if subprocess.run([self.options.peer, "-c", imports], capture_output=True, check=False).returncode:
            print(f"{self.options.peer} lacks soundfile, torch, torchaudio or transformers: no peer", flush=True)
            return None
        return self._runner(self.options.peer, "peers")

    def _runner(self, python: str, side: str) -> Runner:
        small = ["--small"] * SMALL
        return Runner(python, __file__, "--serve", side, "--folder", str(self.options.folder), *small)

    def engine(self, row: str, name: str) -> None:
        seconds = turns(self.options.rounds, (self.our_runner, f"window {name}"), (self.our_runner, f"bare {name}"))
        engine_rate, bare_rate = (1 / window for window in seconds)
        ratio = engine_rate / bare_rate
        target = " (target 0.9)" if name == "ConvNeXt-Tiny" else ""
        sentence = f"{engine_rate:6.1f} windows/s, the batch alone {bare_rate:6.1f}, ratio {ratio:.2f}{target}"
        self.report.add_row(row, sentence, windows_per_second=engine_rate, bare=bare_rate, ratio=ratio)

    def files(self, row: str, name: str) -> None:
        if self.peer_runner is None:
            return
        jobs = ((runner, f"files {name}") for runner in (self.our_runner, self.peer_runner))
        ours, peers = turns(self.options.rounds, *jobs)
        sentence = f"{FILES[name]} files: ours {ours:.1f} s, torch {peers:.1f} s, ratio {ours / peers:.2f} (target 0.9)"
        self.report.add_row(row, sentence, ours_seconds=ours, peer_seconds=peers, ratio=ours / peers)

    def batches(self, row: str, name: str) -> None:
        seconds = turns(self.options.rounds, *((self.our_runner, f"{batch} {name}") for batch in BATCHES))
        times = {str(batch): 1e3 * window for batch, window in zip(BATCHES, seconds, strict=True)}
        sentence = ", ".join(f"{batch}: {ms:.1f} ms" for batch, ms in times.items()) + " a window"
        self.report.add_row(row, sentence, **times)

    def memory(self, row: str, _: str) -> None:
        """Embeds many links to a few recordings by the small model."""
        recordings, peaks = sounds(self.options.folder)[:8], {}
        for count in COUNTS:
            folder = pathlib.Path(self.temporary, str(count))
            folder.mkdir()
            for index, path in enumerate(take(recordings, count)):
                (folder / f"{index}{pathlib.Path(path).suffix}").symlink_to(pathlib.Path(path).resolve())
            peaks[str(count)] = peak("embed", str(folder), "--model", "resnet_fsdd", "-o", f"{folder}.parts/")
        few, many = peaks.values()
        sentence = ", ".join(f"{count} files: {mb:.0f} MB" for count, mb in peaks.items())
        self.report.add_row(
            row, f"{sentence}, difference {many - few:.0f} MB (target 100)", **peaks, difference=many - few
        )

    def second_call(self, row: str, _: str) -> None:
        """Calls the command several times; the first call fills an empty cache."""
        model, times = os.path.join(self.temporary, "model"), []
        save_random(MODELS["ConvNeXt-Tiny"], model)
        environment = {name: value for name, value in os.environ.items() if name != "AUDAX_CACHE"}
        environment["JAX_COMPILATION_CACHE_DIR"] = os.path.join(self.temporary, "cache")
        for _ in range(self.options.rounds + 1):
            start = time.perf_counter()
            command = [sys.executable, "-m", "zoo", "tag", "--model", model]
            subprocess.run(command, env=environment, check=True, capture_output=True)
            times.append(time.perf_counter() - start)
        first, seconds = times[0], statistics.median(times[1:])
        self.report.add_row(row, f"{seconds:.2f} s (target 5), the first {first:.2f} s", seconds=seconds, first=first)


def turns(rounds: int, *jobs: tuple[Runner, str]) -> list[float]:
    """The median seconds of each job; the jobs take turns, and a first turn to compile and warm up does not count."""
    times = [[runner.seconds(job) for runner, job in jobs] for _ in range(rounds + 1)][1:]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def peak(*arguments: str) -> float:
    """The highest memory of a call of `audax-zoo` with these arguments, in MB."""
    process = subprocess.run([sys.executable, "-c", PEAK, *arguments], check=True, capture_output=True, text=True)
    return int(process.stdout.split()[-1]) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peer", default=sys.executable, help="a Python with soundfile, torch, torchaudio and transformers"
    )
    parser.add_argument(
        "--folder",
        type=pathlib.Path,
        default=ROOT.parent / "shared" / "data" / "esc10",
        help="the folder of recordings",
    )
    parser.add_argument("--rounds", type=int, default=1 if SMALL else 5)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="a shell pattern of the rows to measure")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "benchmarks" / "results" / "recordings.json")
    parser.add_argument("--small", action="store_true", help="try everything with a small model and few files")
    parser.add_argument("--serve", choices=("ours", "peers"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve({"ours": ours, "peers": peers}[options.serve](options.folder))
        return
    if not sounds(options.folder):
        parser.error(f"{options.folder} holds no recordings: name a folder of .ogg, .wav or .flac files by --folder.")
    with tempfile.TemporaryDirectory() as temporary:
        Benchmark(options, temporary).run()


if __name__ == "__main__":
    main()
