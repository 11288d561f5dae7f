"""Speed on CPU, ours beside the peer's in one run: medians of interleaved rounds.

    python benchmarks/cpu.py [--peer PYTHON] [--rounds 15] [--only PATTERN]

Log-mel and resampling against torchaudio, networks against timm and transformers on torch (both with random weights;
wav2vec2 from the wave to the embedding, Whisper from its log-mel), LEAF against the direct convolution of its
filters; training steps, forward and backward with the statistics of the batch; compile times, `import zoo`, and the
first embedding in a fresh process. `--peer` is a Python with torch, torchaudio, timm and transformers, maybe of
another environment; each framework runs in a process of its own, the processes take turns. Writes
`benchmarks/results/cpu.json`, where `--only` replaces what it measured.
"""

import argparse
import fnmatch
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
RESAMPLED = {  # both rates in Hz, and how many clips
    f"resample {orig / 1000:g} -> {new // 1000} kHz, {clips}": (orig, new, batch)
    for orig, new in ((44100, 16000), (48000, 16000), (22050, 16000), (16000, 32000), (8000, 16000))
    for clips, batch in (("10 s", 1), ("8 x 10 s", 8))
}
LEAF = {"LEAF 64 filters 5 s": False, "LEAF 64 filters 5 s, gradient": True}  # beside the direct convolution
LONG, SHORT = (1, 1001, 64), (8, 501, 64)
MAPS = {
    f"{name} {length}": (name, shape)
    for name in ("convnext_tiny", "resnet18", "efficientnet_b0")
    for length, shape in (("1 x 10 s", LONG), ("8 x 5 s", SHORT))
}
MAPS |= {
    "ast_base 1 x 10.24 s": ("ast_base", (1, 1024, 128)),
    "whisper_base 1 x 30 s": ("whisper_base", (1, 3000, 80)),
    "wav2vec2_base 1 x 10 s": ("wav2vec2_base", (1, 160000)),  # from the wave on: its frontend learns
    "clap audio tower 1 x 10 s": ("htsat_tiny", LONG),
}
SHAPES = dict(reversed(MAPS.values()))  # each network's first shape
STEPS = {f"step of {name} 8 x 5 s": name for name in ("convnext_tiny", "resnet18", "efficientnet_b0")}
COMPILED = dict.fromkeys(SHAPES, 4) | {"efficientnet_b7": 10}
TARGETS = dict.fromkeys(list(WAVES)[1:], 0.7) | dict.fromkeys(RESAMPLED, 0.8) | dict.fromkeys(MAPS, 0.95)
TARGETS |= dict.fromkeys(STEPS, 1.0) | {"LEAF 64 filters 5 s": 0.35}
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
    """Name to a function of no arguments that runs the work once, or returns the seconds that it took."""
    import functools

    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import numpy as np

    from audax_eqx import features, frontends, models, networks

    rng = np.random.default_rng(0)

    def noise(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    mel = jax.jit(
        lambda waves: jnp.log(features.mel_spectrogram(waves, 16000, 1024, 400, 160, 60.0, 7800.0, n_mels=64) + 1e-8)
    )
    resample = jax.jit(features.resample, static_argnums=(1, 2))

    def wav2vec2(key):
        frontend = frontends.Wav2Vec(16000, key=key)
        return models.Encoder(frontend, networks.wav2vec2_base(key=key), key=key)

    @functools.cache
    def embedder(name):
        build = wav2vec2 if name == "wav2vec2_base" else getattr(networks, name)
        network = eqx.nn.make_with_state(build)(key=jax.random.key(0))
        parts, static = eqx.partition(eqx.nn.inference_mode(network), eqx.is_array)

        def embed(parts, maps):
            network, state = eqx.combine(parts, static)
            return jax.vmap(lambda x: network(x, state)[0])(maps)

        return jax.jit(embed), parts

    def embed(name, maps):
        run, parts = embedder(name)
        return run(parts, maps)

    @functools.cache
    def stepper(name):
        network, state = eqx.nn.make_with_state(getattr(networks, name))(key=jax.random.key(0))
        parts, static = eqx.partition(network, eqx.is_inexact_array)

        def loss(parts, state, maps):
            network = eqx.combine(parts, static)
            y, state = jax.vmap(network, (0, None), (0, None), axis_name="batch")(maps, state)
            return jnp.mean(jnp.square(y)), state

        return jax.jit(jax.value_and_grad(loss, has_aux=True)), parts, state

    def step(name, maps):
        run, parts, state = stepper(name)
        return run(parts, state, maps)

    def compile_(name):
        jax.clear_caches()
        if name in STEPS:
            run, *parts = stepper(STEPS[name])
            shape = SHORT
        else:
            run, *parts = embedder(name)
            shape = SHAPES.get(name, LONG)
        start = time.perf_counter()
        run.lower(*parts, jax.ShapeDtypeStruct(shape, jnp.float32)).compile()
        return time.perf_counter() - start

    leaf, wave = frontends.LEAF(16000, 64, key=jax.random.key(0)), noise(80000)
    taps = noise(401, 1, 128)

    def direct(wave, taps):
        return jax.lax.conv_general_dilated(
            wave[None, :, None], taps, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )

    leaves = eqx.filter_jit(lambda leaf, wave: leaf(wave))
    leaves_back = eqx.filter_jit(eqx.filter_grad(lambda leaf, wave: jnp.sum(leaf(wave))))
    directs = jax.jit(direct)
    directs_back = jax.jit(jax.grad(lambda taps, wave: jnp.sum(jnp.square(direct(wave, taps)))))

    waves = {name: noise(batch, 160000) for name, batch in WAVES.items()}
    waves |= {name: noise(batch, 10 * orig) for name, (orig, _, batch) in RESAMPLED.items()}
    maps = {name: (network, noise(*shape)) for name, (network, shape) in MAPS.items()}
    work = {name: lambda name=name: mel(waves[name]) for name in WAVES}
    work |= {name: lambda name=name: resample(waves[name], *RESAMPLED[name][:2]) for name in RESAMPLED}
    work |= {name: lambda name=name: embed(*maps[name]) for name in MAPS}
    work |= {row: lambda name=name: step(name, maps[f"{name} 8 x 5 s"][1]) for row, name in STEPS.items()}
    for name, back in LEAF.items():
        work[name] = (lambda: leaves_back(leaf, wave)) if back else (lambda: leaves(leaf, wave))
        work[f"direct {name}"] = (lambda: directs_back(taps, wave)) if back else (lambda: directs(wave, taps))
    work = {name: lambda run=run: jax.block_until_ready(run()) for name, run in work.items()}
    return work | {f"compile {name}": lambda name=name: compile_(name) for name in (*COMPILED, *STEPS)}


def peers():
    """The same work on torch, with as many threads as there are cores."""
    import functools

    import timm
    import torch
    import torchaudio
    import transformers

    torch.set_num_threads(os.cpu_count() or 1)
    mel = torchaudio.transforms.MelSpectrogram(16000, 1024, 400, 160, 60.0, 7800.0, n_mels=64)
    resample = {row: torchaudio.transforms.Resample(orig, new) for row, (orig, new, _) in RESAMPLED.items()}

    @functools.cache
    def network(name):
        if name == "ast_base":
            return transformers.ASTModel(transformers.ASTConfig()).eval()
        if name == "wav2vec2_base":
            return transformers.Wav2Vec2Model(transformers.Wav2Vec2Config()).eval()
        if name == "whisper_base":
            config = transformers.WhisperConfig(
                d_model=512,
                encoder_layers=6,
                encoder_attention_heads=8,
                encoder_ffn_dim=2048,
                decoder_attention_heads=8,
            )
            return transformers.WhisperModel(config).encoder.eval()
        if name == "htsat_tiny":
            return transformers.ClapAudioModel(transformers.ClapAudioConfig()).eval()
        return timm.create_model(name, in_chans=1, num_classes=0).eval()

    def shaped(name, shape):
        """The shape that the peer takes: images for timm, and bins before frames for Whisper."""
        if name == "whisper_base":
            return shape[0], shape[2], shape[1]
        return shape if name in ("ast_base", "wav2vec2_base") else (shape[0], 1, *shape[1:])

    @functools.cache
    def trained(name):
        return timm.create_model(name, in_chans=1, num_classes=0).train()

    def step(name, maps):
        trained(name).zero_grad()
        trained(name)(maps).square().mean().backward()

    def inferred(run):
        with torch.inference_mode():
            run()

    waves = {name: torch.randn(batch, 160000) for name, batch in WAVES.items()}
    waves |= {name: torch.randn(batch, 10 * orig) for name, (orig, _, batch) in RESAMPLED.items()}
    maps = {row: (name, torch.randn(shaped(name, shape))) for row, (name, shape) in MAPS.items()}
    work = {name: lambda name=name: inferred(lambda: torch.log(mel(waves[name]) + 1e-8)) for name in WAVES}
    work |= {name: lambda name=name: inferred(lambda: resample[name](waves[name])) for name in RESAMPLED}
    work |= {name: lambda each=each: inferred(lambda: network(each[0])(each[1])) for name, each in maps.items()}
    return work | {row: lambda name=name: step(name, maps[f"{name} 8 x 5 s"][1]) for row, name in STEPS.items()}


def serve(work):
    """Times the work named on each line of standard input; prints seconds, the work's own if it returns a number."""
    for line in sys.stdin:
        start = time.perf_counter()
        seconds = work[line.strip()]()
        print(seconds if isinstance(seconds, float) else time.perf_counter() - start, flush=True)


class Runner:
    """A process that serves `ours` or `peers`."""

    def __init__(self, *command: str):
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


def save_random(name: str, folder: str) -> None:
    """The model of that name with random weights: no time depends on them."""
    import dataclasses

    import jax

    import zoo

    entry = dataclasses.replace(zoo.info(name), checkpoint=None)
    model, state = zoo.create(entry, key=jax.random.key(0))
    zoo.save(folder, model, state, entry)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=sys.executable, help="a Python with torch, torchaudio, timm and transformers")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="a shell pattern of what to measure")
    parser.add_argument("--serve", choices=("ours", "peers"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve({"ours": ours, "peers": peers}[options.serve]())
        return
    out = pathlib.Path(__file__).parent / "results" / "cpu.json"
    results = json.loads(out.read_text()) if out.exists() else {}
    results["machine"] = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    mine, theirs = (
        Runner(python, __file__, "--serve", side)
        for python, side in ((sys.executable, "ours"), (options.peer, "peers"))
    )

    def wanted(names):
        return fnmatch.filter(names, options.only)

    for name in wanted((*WAVES, *RESAMPLED, *MAPS, *STEPS, *LEAF)):
        pair = ((mine, name), (mine, f"direct {name}") if name in LEAF else (theirs, name))
        for runner, job in pair:  # compile and warm up
            runner.seconds(job), runner.seconds(job)
        rounds = [[runner.seconds(job) for runner, job in pair] for _ in range(options.rounds)]
        us, them = (1e3 * median(column) for column in zip(*rounds, strict=True))
        results[name] = {"ours_ms": us, "peer_ms": them, "ratio": us / them}
        target = f" (target {TARGETS[name]})" if name in TARGETS else ""
        print(f"{name:34} ours {us:8.1f} ms   peer {them:8.1f} ms   ratio {us / them:5.2f}{target}", flush=True)
    alone = {
        f"compile {name}": (mine.seconds, target) for name, target in (COMPILED | dict.fromkeys(STEPS, 15)).items()
    }
    with tempfile.TemporaryDirectory() as folder:
        save_random("convnext_audioset", folder)
        alone |= {
            "import zoo": (lambda _: fresh(rounds=5)[0], 1.5),
            "first embedding, resnet_esc10": (lambda _: fresh("resnet_esc10", rounds=3)[1], 3.0),
            "first embedding, ConvNeXt-Tiny": (lambda _: fresh(folder, rounds=3)[1], 12.0),
        }
        for name in wanted(alone):
            measure, target = alone[name]
            results[name] = {"seconds": (seconds := measure(name))}
            print(f"{name:34} {seconds:5.2f} s (target {target})", flush=True)
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
