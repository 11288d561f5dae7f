"""Speed on CPU: ours beside that of a peer, as medians over rounds in which the two take turns.

    python benchmarks/cpu.py [--peer PYTHON] [--rounds 15] [--only PATTERN]

- Log-mel and resampling are compared with torchaudio.
- Networks with random weights are compared with those of timm and transformers on torch: wav2vec2 from the wave to the
  embedding, Whisper from its log-mel to the embedding.
- LEAF is compared with the direct convolution of its filters.
- Training steps are a forward and a backward with the statistics of the batch. They are compared with timm's.
- Compile times, `import zoo`, and the first embedding in a fresh process have targets and no peer.

`--peer` is a Python with torch, torchaudio, timm and transformers, which may belong to another environment. Each
framework runs in a process of its own. The results go to `benchmarks/results/cpu.json`; with `--only` the other rows of
that file stay as they are.
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
RESAMPLINGS = {  # both rates in Hz, and the number of clips
    f"resample {orig / 1000:g} -> {new // 1000} kHz, {clips}": (orig, new, batch)
    for orig, new in ((44100, 16000), (48000, 16000), (22050, 16000), (16000, 32000), (8000, 16000))
    for clips, batch in (("10 s", 1), ("8 x 10 s", 8))
}
LEAF = {"LEAF 64 filters 5 s": False, "LEAF 64 filters 5 s, gradient": True}  # whether the row measures a gradient
LONG, SHORT = (1, 1001, 64), (8, 501, 64)
MAPS = {
    f"{name} {length}": (name, shape)
    for name in ("convnext_tiny", "resnet18", "efficientnet_b0")
    for length, shape in (("1 x 10 s", LONG), ("8 x 5 s", SHORT))
}
MAPS |= {
    "ast_base 1 x 10.24 s": ("ast_base", (1, 1024, 128)),
    "whisper_base 1 x 30 s": ("whisper_base", (1, 3000, 80)),
    "wav2vec2_base 1 x 10 s": ("wav2vec2_base", (1, 160000)),  # takes the wave, because its frontend learns
    "clap audio tower 1 x 10 s": ("htsat_tiny", LONG),
}
SHAPES = dict(reversed(MAPS.values()))  # each network's first shape
STEPS = {f"step of {name} 8 x 5 s": name for name in ("convnext_tiny", "resnet18", "efficientnet_b0")}
COMPILATIONS = dict.fromkeys(SHAPES, 4) | {"efficientnet_b7": 10}  # the target in seconds
TARGETS = dict.fromkeys(list(WAVES)[1:], 0.7) | dict.fromkeys(RESAMPLINGS, 0.8) | dict.fromkeys(MAPS, 0.95)
TARGETS |= dict.fromkeys(STEPS, 1.0) | {"LEAF 64 filters 5 s": 0.35}  # the ratio of our time to the peer's
FRESH_PROCESS = """
import functools, sys, time
start = time.perf_counter()
import numpy as np
import zoo
import_seconds = time.perf_counter() - start
if len(sys.argv) > 1:
    clip = zoo.load(sys.argv[1])
    clip.embed(np.zeros(round(clip.entry.window * clip.sample_rate), np.float32)).block_until_ready()
print(import_seconds, time.perf_counter() - start)
"""


def ours():
    """Our work: a function without arguments for each row, which runs the row once.

    A function that returns a number has timed itself, and the number is its seconds.
    """
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

    def time_compilation(name):
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
    waves |= {name: noise(batch, 10 * orig) for name, (orig, _, batch) in RESAMPLINGS.items()}
    maps = {name: (network, noise(*shape)) for name, (network, shape) in MAPS.items()}
    work = {name: lambda name=name: mel(waves[name]) for name in WAVES}
    work |= {name: lambda name=name: resample(waves[name], *RESAMPLINGS[name][:2]) for name in RESAMPLINGS}
    work |= {name: lambda name=name: embed(*maps[name]) for name in MAPS}
    work |= {row: lambda name=name: step(name, maps[f"{name} 8 x 5 s"][1]) for row, name in STEPS.items()}
    for name, back in LEAF.items():
        work[name] = (lambda: leaves_back(leaf, wave)) if back else (lambda: leaves(leaf, wave))
        work[f"direct {name}"] = (lambda: directs_back(taps, wave)) if back else (lambda: directs(wave, taps))
    work = {name: lambda run=run: jax.block_until_ready(run()) for name, run in work.items()}
    return work | {f"compile {name}": lambda name=name: time_compilation(name) for name in (*COMPILATIONS, *STEPS)}


def peers():
    """The peer's work for the same rows, on torch with one thread for each core."""
    import functools

    import timm
    import torch
    import torchaudio
    import transformers

    torch.set_num_threads(os.cpu_count() or 1)
    mel = torchaudio.transforms.MelSpectrogram(16000, 1024, 400, 160, 60.0, 7800.0, n_mels=64)
    resample = {row: torchaudio.transforms.Resample(orig, new) for row, (orig, new, _) in RESAMPLINGS.items()}

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

    def peer_shape(name, shape):
        """The shape that the peer takes: that of an image for timm, and bins before frames for Whisper."""
        if name == "whisper_base":
            return shape[0], shape[2], shape[1]
        return shape if name in ("ast_base", "wav2vec2_base") else (shape[0], 1, *shape[1:])

    @functools.cache
    def network_in_training(name):
        return timm.create_model(name, in_chans=1, num_classes=0).train()

    def step(name, maps):
        network_in_training(name).zero_grad()
        network_in_training(name)(maps).square().mean().backward()

    def infer(run):
        with torch.inference_mode():
            run()

    waves = {name: torch.randn(batch, 160000) for name, batch in WAVES.items()}
    waves |= {name: torch.randn(batch, 10 * orig) for name, (orig, _, batch) in RESAMPLINGS.items()}
    maps = {row: (name, torch.randn(peer_shape(name, shape))) for row, (name, shape) in MAPS.items()}
    work = {name: lambda name=name: infer(lambda: torch.log(mel(waves[name]) + 1e-8)) for name in WAVES}
    work |= {name: lambda name=name: infer(lambda: resample[name](waves[name])) for name in RESAMPLINGS}
    work |= {row: lambda pair=pair: infer(lambda: network(pair[0])(pair[1])) for row, pair in maps.items()}
    return work | {row: lambda name=name: step(name, maps[f"{name} 8 x 5 s"][1]) for row, name in STEPS.items()}


def serve(work):
    """Runs the work that each line of standard input names, and prints its seconds.

    They are the number that the work returns, if it returns a number, else the time that it took.
    """
    for line in sys.stdin:
        start = time.perf_counter()
        seconds = work[line.strip()]()
        print(seconds if isinstance(seconds, float) else time.perf_counter() - start, flush=True)


class Runner:
    """A process that runs `serve`, started by a command."""

    def __init__(self, *command: str):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, name: str) -> float:
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def median(values):
    return sorted(values)[len(values) // 2]


def time_fresh_process(*arguments: str, rounds: int) -> tuple[float, float]:
    """Median seconds of `import zoo`, and of a new process up to its first embedding by the model in `arguments`."""
    runs = []
    for _ in range(rounds):
        out = subprocess.run(
            [sys.executable, "-c", FRESH_PROCESS, *arguments], check=True, capture_output=True, text=True
        )
        runs.append([float(seconds) for seconds in out.stdout.split()])
    import_seconds, total = zip(*runs, strict=True)
    return median(import_seconds), median(total)


def save_random(name: str, folder: str) -> None:
    """Saves the model of that name with random weights, on which no time depends."""
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
    parser.add_argument("--only", default="*", metavar="PATTERN", help="a shell pattern of the rows to measure")
    parser.add_argument("--serve", choices=("ours", "peers"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve({"ours": ours, "peers": peers}[options.serve]())
        return
    out = pathlib.Path(__file__).parent / "results" / "cpu.json"
    results = json.loads(out.read_text()) if out.exists() else {}
    results["machine"] = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    our_runner, peer_runner = (
        Runner(python, __file__, "--serve", side)
        for python, side in ((sys.executable, "ours"), (options.peer, "peers"))
    )

    def select(names):
        return fnmatch.filter(names, options.only)

    for name in select((*WAVES, *RESAMPLINGS, *MAPS, *STEPS, *LEAF)):
        pair = ((our_runner, name), (our_runner, f"direct {name}") if name in LEAF else (peer_runner, name))
        for runner, job in pair:  # the first calls compile and warm up
            runner.seconds(job), runner.seconds(job)
        rounds = [[runner.seconds(job) for runner, job in pair] for _ in range(options.rounds)]
        ours_ms, peer_ms = (1e3 * median(column) for column in zip(*rounds, strict=True))
        ratio = ours_ms / peer_ms
        results[name] = {"ours_ms": ours_ms, "peer_ms": peer_ms, "ratio": ratio}
        target = f" (target {TARGETS[name]})" if name in TARGETS else ""
        print(f"{name:34} ours {ours_ms:8.1f} ms   peer {peer_ms:8.1f} ms   ratio {ratio:5.2f}{target}", flush=True)
    targets = COMPILATIONS | dict.fromkeys(STEPS, 15)
    rows_without_peer = {f"compile {name}": (our_runner.seconds, target) for name, target in targets.items()}
    with tempfile.TemporaryDirectory() as folder:
        save_random("convnext_audioset", folder)
        rows_without_peer |= {
            "import zoo": (lambda _: time_fresh_process(rounds=5)[0], 1.5),
            "first embedding, resnet_esc10": (lambda _: time_fresh_process("resnet_esc10", rounds=3)[1], 3.0),
            "first embedding, ConvNeXt-Tiny": (lambda _: time_fresh_process(folder, rounds=3)[1], 12.0),
        }
        for name in select(rows_without_peer):
            measure, target = rows_without_peer[name]
            results[name] = {"seconds": (seconds := measure(name))}
            print(f"{name:34} {seconds:5.2f} s (target {target})", flush=True)
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
