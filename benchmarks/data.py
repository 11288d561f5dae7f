"""The clips that training reads each second from a prepared dataset, beside those that soundfile alone decodes.

    python benchmarks/data.py [--seconds 5] [--clips 2000] [--threads 1 2] [--rounds 5]

The first part prints medians over rounds in which the two take turns. Training's stream is timed from its creation to
its last batch. soundfile decodes the same clips as FLAC in memory. The stream should reach 0.95 of soundfile's rate.
The clips are 1/f noise at 16 kHz whose level changes.

The second part measures how long a training step waits for its batch of 256. The step is a pause, as long as a step of
a GPU that reaches the targets of `benchmarks/gpu.py`. 16 threads read. Decoding is a pause, too, as long as one thread
takes to decode a clip, so that two cores can stand for 16. All else runs as in training; Python's own work counts most,
because the threads have to queue for it. The steps should wait for 0 ms.

The results go to `benchmarks/results/data.json`.
"""

import argparse
import contextlib
import csv
import io
import json
import os
import pathlib
import tempfile
import threading
import time

import numpy as np
import soundfile
from gpu import TRAIN

from train import sounds
from train.data import Dataset, Sampler, train_batches
from train.records import prepare

SAMPLE_RATE = 16000
BATCH = 64


def write_clips(folder: pathlib.Path, clips: int, seconds: float) -> pathlib.Path:
    """Writes WAV files and their manifest to the folder, and returns the path of the manifest."""
    generator = np.random.default_rng(0)
    samples = round(seconds * SAMPLE_RATE)
    slope = 1 / np.sqrt(np.arange(1, samples // 2 + 2))
    names = [f"{number}.wav" for number in range(clips)]
    for name in names:
        spectrum = slope * np.exp(2j * np.pi * generator.random(len(slope)))
        noise = np.fft.irfft(spectrum, samples)
        level = np.interp(np.arange(samples), np.linspace(0, samples, 11), generator.uniform(0.01, 0.3, 11))
        soundfile.write(folder / name, level * noise / np.abs(noise).max(), SAMPLE_RATE)
    with open(folder / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows([["files"], *([name] for name in names)])
    return folder / "manifest.csv"


def decode_by_soundfile(flacs: list[bytes], threads: int) -> None:
    """Decodes all clips by soundfile, in threads that share them."""

    def decode(part):
        for flac in part:
            soundfile.read(io.BytesIO(flac), dtype="int16")

    workers = [threading.Thread(target=decode, args=(flacs[first::threads],)) for first in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def read_by_training(dataset: Dataset, threads: int) -> None:
    """Reads one epoch as training does."""
    sampler = Sampler(dataset.rows(held_out=False), BATCH, seed=0)
    samples, steps = int(dataset.samples.max()), len(dataset) // BATCH
    for _ in train_batches(dataset, sampler, samples=samples, stop=steps, threads=threads):
        pass


def waits(dataset: Dataset, rate: float, pause: float, steps: int = 40) -> list[float]:
    """The seconds for which each step of 256 clips waits for its batch.

    The steps would train on `rate` clips/s if they never waited. Decoding a clip is a pause of `pause` seconds.
    """

    class Pause(soundfile.SoundFile):
        def read(self, out):
            time.sleep(pause)
            return out

    decoder, sounds._Sound = sounds._Sound, Pause
    try:
        sampler = Sampler(dataset.rows(held_out=False), 256, seed=0)
        batches = train_batches(dataset, sampler, samples=int(dataset.samples.max()), threads=16)
        next(batches)
        time.sleep(0.5)  # a first step compiles, and meanwhile the threads read all the batches that they may
        seconds = []
        for _ in range(steps):
            start = time.perf_counter()
            next(batches)
            seconds.append(time.perf_counter() - start)
            time.sleep(256 / rate)
        batches.close()
        return seconds
    finally:
        sounds._Sound = decoder


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    results = {"cores": os.cpu_count(), "batch": BATCH, **vars(options)}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        manifest = write_clips(folder, options.clips, options.seconds)
        with contextlib.redirect_stderr(io.StringIO()):
            prepare(manifest, folder / "dataset", sample_rate=SAMPLE_RATE, unlabelled=True)
        dataset = Dataset(folder / "dataset")
        flacs = []
        for row in range(len(dataset) // BATCH * BATCH):
            flac = io.BytesIO()
            soundfile.write(
                flac, np.round(32768 * dataset.read(row)).astype(np.int16), SAMPLE_RATE, format="FLAC", subtype="PCM_16"
            )
            flacs.append(flac.getvalue())
        for threads in options.threads:
            speeds = {"soundfile": [], "training": []}
            sides = {
                "soundfile": lambda count=threads: decode_by_soundfile(flacs, count),
                "training": lambda count=threads: read_by_training(dataset, count),
            }
            for round_ in range(options.rounds + 1):
                for name, run in sides.items():
                    start = time.perf_counter()
                    run()
                    if round_:  # the first round warms up
                        speeds[name].append(len(flacs) / (time.perf_counter() - start))
            medians = {name: float(np.median(values)) for name, values in speeds.items()}
            medians["ratio"] = float(np.median(np.divide(speeds["training"], speeds["soundfile"])))
            results[f"{threads} threads"] = medians
            print(
                f"{threads} threads  soundfile {medians['soundfile']:7.0f} clips/s  "
                f"training {medians['training']:7.0f} clips/s  ratio {medians['ratio']:.2f}",
                flush=True,
            )
        pause = 1 / max(results[f"{threads} threads"]["soundfile"] / threads for threads in options.threads)
        for name, (_, _, rate) in TRAIN.items():
            if rate:
                ms = 1e3 * np.array(waits(dataset, rate, pause))
                share = float(np.mean(ms > 2))
                results[f"{name}, {rate} clips/s"] = {"median_wait_ms": float(np.median(ms)), "waiting_steps": share}
                print(f"{name:32} {rate:5} clips/s  a step waits {np.median(ms):5.1f} ms, {share:4.0%} over 2 ms")
    out = pathlib.Path(__file__).parent / "results" / "data.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(results, indent=2) + "\n")
    print(out)


if __name__ == "__main__":
    main()
