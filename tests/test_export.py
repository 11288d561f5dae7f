"""Exported models: StableHLO runs by jax alone, ONNX by ONNX Runtime, and both give what the model gives."""

import functools
import subprocess
import sys
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import error
from small import NETWORKS

import zoo
from audax_eqx._portable import portable
from zoo import _export
from zoo.__main__ import main

NAMES = [entry.name for entry in NETWORKS]
BY_XLA_ALONE = {"platform_index", "custom_vmap_call", "shard_map", "depthwise", "convolution", "matmul"}
ALONE = """
import sys
for name in ("zoo", "audax_eqx", "equinox", "jaxtyping"):
    sys.modules[name] = None
import jax, jax.export
import numpy as np
exported = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
np.save(sys.argv[3], exported.call(np.load(sys.argv[2])))
print(exported.fun_name, exported.in_avals[0].shape)
"""


@functools.cache
def clip_of(name):
    entry = next(each for each in NETWORKS if each.name == name)
    model, state = zoo.create(entry, key=jax.random.key(0))
    return zoo.Pretrained(eqx.nn.inference_mode(model), state, entry)


def noise(*shape):
    return np.random.default_rng(1).uniform(-0.5, 0.5, shape).astype(np.float32)


def samples_of(clip):
    return round(clip.entry.window * clip.sample_rate)


def in_another_process(path, waves):
    np.save(path.with_suffix(".waves.npy"), waves)
    found = path.with_suffix(".found.npy")
    command = [sys.executable, "-c", ALONE, path, path.with_suffix(".waves.npy"), found]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.load(found), done.stdout


# StableHLO ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [None, 3])
def test_stablehlo_runs_where_there_is_jax_alone(batch, tmp_path):
    clip, waves = zoo.load("resnet_fsdd"), noise(3, 8000)
    zoo.export(clip, tmp_path / "model.stablehlo", batch=batch)
    found, printed = in_another_process(tmp_path / "model.stablehlo", waves)
    assert error(found, [clip.probabilities(wave) for wave in waves]) < 1e-5
    assert printed.split()[0] == "resnet_fsdd" and f"({'batch' if batch is None else batch}, 8000)" in printed


@pytest.mark.parametrize("values", ["logits", "embedding", "frames"])
def test_values_are_those_of_the_methods(values, tmp_path):
    clip, waves = clip_of("wav2vec2"), noise(2, 4000)
    zoo.export(clip, tmp_path / "model.stablehlo", values=values, window=0.25)
    exported = jax.export.deserialize(bytearray((tmp_path / "model.stablehlo").read_bytes()))
    method = {"logits": clip, "embedding": clip.embed, "frames": clip.frames}[values]
    assert error(exported.call(waves), [method(wave) for wave in waves]) < 1e-5


def test_a_model_without_classes_gives_its_embedding(tmp_path):
    clip = zoo.load("cola_small")
    main(["export", "cola_small", str(tmp_path / "model.stablehlo"), "--batch", "2"])
    exported = jax.export.deserialize(bytearray((tmp_path / "model.stablehlo").read_bytes()))
    waves = noise(2, samples_of(clip))
    assert error(exported.call(waves), [clip.embed(wave) for wave in waves]) < 1e-5


# Portable programs ----------------------------------------------------------------------------------------------------


def primitives(jaxpr):
    names = set()
    for equation in jaxpr.eqns:
        names.add(equation.primitive.name)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            names |= primitives(inner) if hasattr(inner, "eqns") else set()
    return names


@pytest.mark.parametrize("name", NAMES)
def test_a_portable_program_has_plain_operations_alone(name):
    clip = clip_of(name)
    trace = jax.make_jaxpr(jax.vmap(functools.partial(_export.output, clip)))
    shape = jax.ShapeDtypeStruct((2, samples_of(clip)), jnp.float32)
    fast = primitives(trace(shape).jaxpr)
    with portable(True):
        plain = primitives(trace(shape).jaxpr)
    assert not plain & BY_XLA_ALONE
    assert fast & BY_XLA_ALONE or name.startswith(("hubert", "data2vec"))


@pytest.mark.parametrize("name", ["leaf", "sincnet", "pcen", "mobilenet", "wavlm"])
def test_a_portable_program_gives_what_the_fast_one_gives(name):
    clip = clip_of(name)
    program = jax.jit(jax.vmap(functools.partial(_export.output, clip)))
    waves = noise(2, samples_of(clip))
    wanted = program(waves)
    with portable(True):
        found = program(waves)  # the same function: jit keeps both programs apart
    assert error(found, wanted) < 1e-5


# ONNX -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*zoo.list_models("*_esc10"), "cola_small", *sorted({*NAMES} - {"dymn"})])
def test_onnx_gives_what_the_model_gives(name, tmp_path):
    pytest.importorskip("jax2onnx", reason='pip install "audax-eqx[onnx]"')
    clip = clip_of(name) if name in NAMES else zoo.load(name)
    path, wave = tmp_path / "model.onnx", noise(1, samples_of(clip))
    zoo.export(clip, path)
    wanted = clip.probabilities(wave[0]) if clip.entry.classifies else clip.embed(wave[0])
    assert error(_export._run(path, wave), wanted[None]) < 1e-4


def test_onnx_says_what_it_takes(tmp_path):
    pytest.importorskip("jax2onnx", reason='pip install "audax-eqx[onnx]"')
    onnx = pytest.importorskip("onnx")
    zoo.export(zoo.load("resnet_fsdd"), tmp_path / "model.onnx", batch=2)
    model = onnx.load(tmp_path / "model.onnx")
    facts = {each.key: each.value for each in model.metadata_props}
    assert facts["labels"].split("\n") == list("0123456789") and facts["sample_rate"] == "8000"
    (wave,), (scores,) = model.graph.input, model.graph.output
    sizes = [[axis.dim_value for axis in each.type.tensor_type.shape.dim] for each in (wave, scores)]
    assert (wave.name, scores.name, sizes) == ("wave", "scores", [[2, 8000], [2, 10]])


def stand_in(monkeypatch, convert):
    """A converter, and ONNX, without either."""
    helper = types.SimpleNamespace(set_model_props=lambda model, properties: None)
    save = lambda model, path: path.write_bytes(b"onnx")  # noqa: E731
    monkeypatch.setitem(sys.modules, "jax2onnx", types.SimpleNamespace(to_onnx=convert))
    monkeypatch.setitem(sys.modules, "onnx", types.SimpleNamespace(helper=helper, save=save))


def test_what_the_converter_lacks_is_told_and_nothing_is_written(tmp_path, monkeypatch):
    def convert(*_, **__):
        raise NotImplementedError("No plugins registered for primitive 'fft'")

    stand_in(monkeypatch, convert)
    with pytest.raises(ValueError, match=r"pcen cannot be written as ONNX.*'fft'.*write \.stablehlo"):
        zoo.export(clip_of("pcen"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_what_the_converter_makes_wrong_is_not_written(tmp_path, monkeypatch):
    stand_in(monkeypatch, lambda *_, **__: types.SimpleNamespace())
    monkeypatch.setattr(_export, "_run", lambda path, wave: np.full((1, 5), 0.5, np.float32))
    with pytest.raises(ValueError, match="as ONNX gives other scores than the model"):
        zoo.export(clip_of("resnet"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("model.pt", {}, "is exported as .stablehlo or .onnx, got 'model.pt'"),
        ("model.onnx", {"batch": 0}, "at least 1, got 0"),
        ("model.onnx", {"window": 0.0}, "got 0 s: give another window"),
        ("model.onnx", {"values": "scores"}, "no classes and so no scores"),
    ],
)
def test_what_cannot_be_exported_is_told(name, options, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        zoo.export(zoo.load("cola_small"), tmp_path / name, **options)


@pytest.mark.parametrize(("module", "name"), [("flatbuffers", "model.stablehlo"), ("jax2onnx", "model.onnx")])
def test_a_missing_extra_is_told(module, name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        zoo.export(zoo.load("cola_small"), tmp_path / name)
