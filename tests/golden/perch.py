"""Makes perch.npz: what the authors' Flax code (https://github.com/google-research/perch at b216270, flax 0.12) makes
of recordings and of maps, with small networks of seeded weights, and a checkpoint that TensorFlow 2.21 wrote.

cd tests; python -m golden.perch path/to/perch

- `FRONTEND/SOUND`: every fifth frame. `NETWORK/map`, `/HEAD`: the map of `uniform("x", SIZE)`, and a head's logits.
- `checkpoint/index`, `checkpoint/data`: the bytes of its two files; it holds `uniform("0", (3, 4))`, ..., and a text.

Of the authors' packages aqt and what loads audio are not needed, and stand empty here.
"""

import importlib
import pathlib
import sys
import tempfile
import types

import numpy as np

from .seeded import uniform, values

NETWORKS = {  # the stem's width; stages of blocks, width, kernel, stride, expansion; the activation; the map's size
    "code": (8, ((2, 8, 3, 1, 1), (2, 8, 3, 2, 6), (1, 16, 5, 2, 6), (3, 16, 3, 2, 6), (2, 24, 5, 1, 6),
                 (2, 16, 5, 2, 6), (2, 32, 3, 1, 6)), "relu", (97, 40)),
    "released": (12, ((1, 12, 3, 1, 1), (2, 12, 3, 2, 6), (2, 12, 5, 2, 6), (1, 16, 3, 2, 6), (1, 16, 5, 1, 6),
                      (2, 20, 5, 2, 6), (1, 20, 3, 1, 6)), "silu", (64, 33)),
}  # fmt: skip
FRONTENDS = {
    "released": ("SimpleMelspec", 1e-5, {}),
    "code": ("MelSpectrogram", 1e-2, {}),
    "small": ("SimpleMelspec", 1e-4, {"features": 40, "stride": 200, "kernel_size": 500, "sample_rate": 16000,
                                      "freq_range": (100, 7000), "nfft": 512}),
}  # fmt: skip
USUAL = {"features": 128, "stride": 320, "kernel_size": 640, "sample_rate": 32000, "freq_range": (60, 16000),
         "nfft": 1024}  # fmt: skip
LEAVES = {"scale": "weight", "mean": "running_mean", "var": "running_var"}
CHECKPOINT = ((3, 4), (), (7,), (2, 3, 5), (0, 3))


def sounds():
    clicks = np.zeros(12800)
    clicks[::1919] = 1.0
    return {"noise": 0.3 * uniform("wave", (16000,)) + 0.05, "odd": 0.01 * uniform("wave", (4321,)), "clicks": clicks}


def prepared(wave):
    """As perch_hoplite does it to a window."""
    wave = wave.astype(np.float32) - np.mean(wave.astype(np.float32))
    return wave / np.max(np.abs(wave)) * np.float32(0.25)


def seeded(path, shape):
    """Values for a leaf of Flax."""
    path, _, leaf = path.rpartition("/")
    return values(f"{path}.{LEAVES.get(leaf, leaf)}", shape)


def flat(tree, prefix=""):
    """A tree of dictionaries by paths."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        key: leaf for name in tree for key, leaf in flat(tree[name], f"{prefix}/{name}" if prefix else name).items()
    }


def chirp(folder):
    sys.path.insert(0, str(folder))
    for name in (
        "aqt",
        "aqt.jax",
        "aqt.jax.v2",
        "aqt.jax.v2.aqt_conv_general",
        "aqt.jax.v2.config",
        "chirp.audio_utils",
    ):
        sys.modules[name] = types.ModuleType(name)
    v2 = sys.modules["aqt.jax.v2"]
    v2.aqt_conv_general, v2.config = (sys.modules[f"aqt.jax.v2.{name}"] for name in ("aqt_conv_general", "config"))
    v2.aqt_conv_general.make_conv_general_dilated = v2.config.conv_general_dilated_make = lambda *_, **__: None
    audio = (folder / "chirp" / "audio_utils.py").read_text()
    scale = audio[audio.index("def log_scale") : audio.index("def random_low_pass_filter")]
    exec(f"import jax.numpy as jnp\n{scale}", sys.modules["chirp.audio_utils"].__dict__)
    return [importlib.import_module(f"chirp.models.{name}") for name in ("efficientnet", "frontend", "heads")]


def main(folder):
    import jax
    import jax.numpy as jnp
    import tensorflow

    efficientnet, frontend, heads = chirp(folder)
    arrays = {}
    for name, (kind, floor, options) in FRONTENDS.items():
        scaling = frontend.LogScalingConfig(floor=floor)
        made = getattr(frontend, kind)(**USUAL | options, power=1.0, scaling_config=scaling)
        for sound, wave in sounds().items():
            arrays[f"{name}/{sound}"] = np.asarray(made.apply({}, jnp.asarray(prepared(wave))))[::5]

    def apply(module, *inputs):
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, train=False))
        leaves = {kind: flat(shapes[kind]) for kind in shapes if kind != "intermediates"}
        tree = {}
        for kind, paths in leaves.items():
            for path, leaf in paths.items():
                *parts, last = [kind, *path.split("/")]
                branch = tree
                for part in parts:
                    branch = branch.setdefault(part, {})
                branch[last] = seeded(path, leaf.shape)
        return module.apply(tree, *inputs, train=False)

    for name, (stem, stages, activation, size) in NETWORKS.items():
        efficientnet.STEM_FEATURES, efficientnet.HEAD_FEATURES = stem, 4 * stages[-1][1]
        efficientnet.STAGES[:] = [
            efficientnet.EfficientNetStage(n, width, (k, k), s, e) for n, width, k, s, e in stages
        ]
        efficientnet.round_features = lambda features, *_: features
        efficientnet.op_sets["silu"] = efficientnet.OpSet(activation=jax.nn.silu)
        kind = efficientnet.EfficientNetModel.B0
        network = efficientnet.EfficientNet(kind, include_top=False, op_set={"relu": "default"}.get(activation, "silu"))
        y = apply(network, jnp.asarray(uniform("x", (1, *size, 1)), jnp.float32))
        arrays[f"{name}/map"] = np.asarray(y[0])
        arrays[f"{name}/prototypes"] = np.asarray(apply(heads.ProtoPNetHead(num_prototypes=3, num_classes=7), y)[0])
        arrays[f"{name}/dense"] = np.asarray(apply(heads.DenseHead(num_classes=5), y)[0])

    with tempfile.TemporaryDirectory() as temporary:
        leaves = [
            tensorflow.Variable(uniform(str(index), shape).astype(np.float32)) for index, shape in enumerate(CHECKPOINT)
        ]
        checkpoint = tensorflow.train.Checkpoint(_tf_var_leaves=leaves, text=tensorflow.Variable("words"))
        path = pathlib.Path(checkpoint.write(f"{temporary}/variables"))
        for part, suffix in (("index", ".index"), ("data", ".data-00000-of-00001")):
            arrays[f"checkpoint/{part}"] = np.frombuffer(path.with_suffix(suffix).read_bytes(), np.uint8)
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
