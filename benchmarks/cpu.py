"""Speed on CPU, ours beside the peer's in one run: medians of interleaved rounds.

    python benchmarks/cpu.py [--peer PYTHON] [--rounds 15]

Log-mel and resampling against torchaudio, ConvNeXt-Tiny against timm on torch, `import zoo`, and the first embedding
in a fresh process. `--peer` is a Python with torch, torchaudio and timm, maybe of another environment; each framework
runs in a process of its own, the processes take turns. Writes `benchmarks/results/cpu.json`.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
WAVES = {"log-mel 10 s, batch 1": 1, "log-mel 10 s, batch 8": 8, "log-mel 10 s, batch 32": 32}
RESAMPLED = {"resample 44.1 -> 16 kHz, 10 s": 1, "resample 44.1 -> 16 kHz, 8 x 10 s": 8}
MAPS = {"convnext_tiny 1 x 10 s": (1, 1001, 64), "convnext_tiny 8 x 5 s": (8, 501, 64)}
TARGETS = dict.fromkeys(list(WAVES)[1:], 0.7) | dict.fromkeys(MAPS, 1.0)
FIRST = """
import functools, sys, time
start = time.perf_counter()
import numpy as np
import zoo
imported = time.perf_counter() - start
if len(sys.argv) > 1:
    clip = zoo.load(sys.argv[1])
    clip.embed(np.zeros(round(clip.entry.window * clip.sample_rate), np.float32)).block_until_ready()
print(imported, time.perf_counter() - start)
"""


def ours():
    """Name to a function of no arguments that runs the work once."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import numpy as np

    from audax_eqx import features, networks

    rng = np.random.default_rng(0)
    mel = jax.jit(
        lambda waves: jnp.log(features.mel_spectrogram(waves, 16000, 1024, 400, 160, 60.0, 7800.0, n_mels=64) + 1e-8)
    )
    network = eqx.nn.make_with_state(networks.convnext_tiny)(key=jax.random.key(0))
    parts, static = eqx.partition(eqx.nn.inference_mode(network), eqx.is_array)

    @jax.jit
    def embed(parts, maps):
        network, state = eqx.combine(parts, static)
        return jax.vmap(lambda x: network(x, state)[0])(maps)

    waves = {name: jnp.asarray(rng.normal(size=(batch, 160000)), jnp.float32) for name, batch in WAVES.items()}
    maps = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in MAPS.items()}
    resample = jax.jit(lambda waves: features.resample(waves, 44100, 16000))
    waves |= {name: jnp.asarray(rng.normal(size=(batch, 441000)), jnp.float32) for name, batch in RESAMPLED.items()}
    work = {name: lambda name=name: mel(waves[name]).block_until_ready() for name in WAVES}
    work |= {name: lambda name=name: resample(waves[name]).block_until_ready() for name in RESAMPLED}
    return work | {name: lambda name=name: embed(parts, maps[name]).block_until_ready() for name in MAPS}


def peers():
    """The same work on torch, with as many threads as there are cores."""
    import timm
    import torch
    import torchaudio

    torch.set_num_threads(os.cpu_count() or 1)
    mel = torchaudio.transforms.MelSpectrogram(16000, 1024, 400, 160, 60.0, 7800.0, n_mels=64)
    network = timm.create_model("convnext_tiny", in_chans=1, num_classes=0).eval()
    waves = {name: torch.randn(batch, 160000) for name, batch in WAVES.items()}
    maps = {name: torch.randn(batch, 1, frames, bins) for name, (batch, frames, bins) in MAPS.items()}

    def inferred(run):
        with torch.inference_mode():
            run()

    resample = torchaudio.transforms.Resample(44100, 16000)
    waves |= {name: torch.randn(batch, 441000) for name, batch in RESAMPLED.items()}
    work = {name: lambda name=name: inferred(lambda: torch.log(mel(waves[name]) + 1e-8)) for name in WAVES}
    work |= {name: lambda name=name: inferred(lambda: resample(waves[name])) for name in RESAMPLED}
    return work | {name: lambda name=name: inferred(lambda: network(maps[name])) for name in MAPS}


def serve(work):
    """Times the work named on each line of standard input; prints seconds."""
    for line in sys.stdin:
        start = time.perf_counter()
        work[line.strip()]()
        print(time.perf_counter() - start, flush=True)


class Runner:
    """A process that serves `ours` or `peers`."""

    def __init__(self, python: str, side: str):
        command = [python, __file__, "--serve", side]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, name: str) -> float:
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def median(values):
    return sorted(values)[len(values) // 2]


def fresh(*arguments: str, rounds: int) -> tuple[float, float]:
    """Median seconds of `import zoo` and of all up to the first embedding, each time in a new process."""
    runs = []
    for _ in range(rounds):
        out = subprocess.run([sys.executable, "-c", FIRST, *arguments], check=True, capture_output=True, text=True)
        runs.append([float(each) for each in out.stdout.split()])
    imported, total = zip(*runs, strict=True)
    return median(imported), median(total)


def save_random_tiny(folder: str) -> None:
    """ConvNeXt-Tiny as `convnext_audioset` has it, with random weights: the time to load does not depend on them."""
    import dataclasses

    import jax

    import zoo

    entry = dataclasses.replace(zoo.info("convnext_audioset"), checkpoint=None)
    model, state = zoo.create(entry, key=jax.random.key(0))
    zoo.save(folder, model, state, entry)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=sys.executable, help="a Python with torch, torchaudio and timm")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--serve", choices=("ours", "peers"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve({"ours": ours, "peers": peers}[options.serve]())
        return
    mine, theirs = Runner(sys.executable, "ours"), Runner(options.peer, "peers")
    results = {"machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"}
    for name in (*WAVES, *RESAMPLED, *MAPS):
        for runner in (mine, theirs):  # compile and warm up
            runner.seconds(name), runner.seconds(name)
        rounds = [(mine.seconds(name), theirs.seconds(name)) for _ in range(options.rounds)]
        us, them = (1e3 * median(column) for column in zip(*rounds, strict=True))
        results[name] = {"ours_ms": us, "peer_ms": them, "ratio": us / them}
        target = f" (target {TARGETS[name]})" if name in TARGETS else ""
        print(f"{name:34} ours {us:8.1f} ms   peer {them:8.1f} ms   ratio {us / them:5.2f}{target}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        save_random_tiny(folder)
        first = {
            "import zoo": (fresh(rounds=5)[0], 1.5),
            "first embedding, convnext_esc10": (fresh("convnext_esc10", rounds=3)[1], 8.0),
            "first embedding, ConvNeXt-Tiny": (fresh(folder, rounds=3)[1], 12.0),
        }
    for name, (seconds, target) in first.items():
        results[name] = {"seconds": seconds}
        print(f"{name:34} {seconds:5.2f} s (target {target})")
    out = pathlib.Path(__file__).parent / "results" / "cpu.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
