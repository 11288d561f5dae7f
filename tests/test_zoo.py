"""The zoo: names, folders, Hub caches, and what a pretrained model takes and gives."""

import contextlib
import csv
import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import zoo
from audax_eqx.models import Classifier
from zoo._card import front_matter
from zoo._create import skeleton
from zoo._leaves import fill, named_leaves
from zoo._source import PACKAGED, packaged
from zoo._weights import atomic

ROOT = pathlib.Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
SAMPLES = 16000
FILES = {"config.json", "model.safetensors", "preprocessor_config.json", "golden.safetensors", "README.md"}
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
    labels=("a", "b", "c"),
    metrics=({"dataset": "made up", "metric": "accuracy", "value": 0.5, "source": "none"},),
)


def filled(entry, seed=0):
    """The entry's model and state with seeded weights and statistics."""
    model, state = skeleton(entry)
    shapes = {name: leaf.shape for name, leaf in named_leaves(model, state).items()}
    rng = np.random.default_rng(seed)

    def value(name):
        if name.endswith("running_var"):
            return rng.uniform(100.0, 400.0, shapes[name])
        if name.endswith("running_mean"):
            return rng.uniform(-30.0, -10.0, shapes[name])
        return rng.normal(0.0, 0.3, shapes[name])

    return fill(model, state, value)


def noise(samples=SAMPLES, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


def difference(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def assert_equal_arrays(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, leaf in ours.items():
        assert leaf.dtype == theirs[name].dtype
        np.testing.assert_array_equal(leaf, theirs[name], err_msg=name)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def python(code, *arguments, **environment):
    """What a fresh process prints as JSON."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XLA_"))}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("zoo") / "tiny"
    zoo.save(made, *filled(TINY), TINY)
    return made


@pytest.fixture(scope="module")
def clip(folder):
    return zoo.load(folder)


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the tiny model's folder, to break."""
    made = tmp_path / "copy"
    made.mkdir()
    for name, content in contents(folder).items():
        (made / name).write_bytes(content)
    return made


def rewrite(path, **fields):
    """Changes fields of a config.json; None takes one away."""
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


# Folders


def test_a_saved_model_loads_bit_by_bit(clip):
    assert clip.entry == TINY
    assert hash(clip.entry) == hash(TINY)
    assert_equal_arrays(named_leaves(clip.model, clip.state), named_leaves(*filled(TINY)))


def test_a_loaded_model_saves_to_the_same_bytes(folder, clip, tmp_path):
    zoo.save(tmp_path / "again", clip.model, clip.state, clip.entry)
    assert contents(tmp_path / "again") == contents(folder)


def test_a_folder_holds_five_files_and_float32_arrays_by_field_path(folder):
    assert set(contents(folder)) == FILES
    arrays = load_file(folder / "model.safetensors")
    assert {array.dtype for array in arrays.values()} == {np.dtype("float32")}
    assert arrays["network.stages.0.blocks.0.depthwise.weight"].shape == (7, 7, 1, 8)
    assert arrays["network.input_norm.running_var"].shape == (32,)
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "jax"}


def test_a_loaded_model_computes_what_the_saved_one_does(clip):
    run = eqx.filter_jit(lambda model, state, wave: eqx.nn.inference_mode(model)(wave, state)[0])
    logits = run(*filled(TINY), jnp.asarray(noise()))
    assert difference(clip(noise()), logits) < 1e-5
    assert difference(run(*filled(TINY, seed=1), jnp.asarray(noise())), logits) > 1e-2


def test_float16_halves_the_file_and_keeps_the_outputs(folder, clip, tmp_path):
    zoo.save(tmp_path / "half", clip.model, clip.state, clip.entry, dtype="float16")
    whole, half = ((each / "model.safetensors").read_bytes() for each in (folder, tmp_path / "half"))
    data = [len(file) - 8 - int.from_bytes(file[:8], "little") for file in (whole, half)]
    assert data[0] == 2 * data[1]
    loaded = zoo.load(tmp_path / "half")
    assert {leaf.dtype for leaf in named_leaves(loaded.model, loaded.state).values()} == {jnp.dtype("float32")}
    assert 0 < difference(loaded(noise()), clip(noise())) < 5e-3


def test_saving_over_a_model_replaces_it(copy):
    model, state = filled(TINY, seed=1)
    entry = dataclasses.replace(TINY, license="MIT")
    zoo.save(copy, model, state, entry)
    loaded = zoo.load(copy)
    assert loaded.entry == entry
    assert_equal_arrays(named_leaves(loaded.model, loaded.state), named_leaves(model, state))
    assert set(contents(copy)) == FILES


@pytest.mark.parametrize(
    "fields, fault",
    [
        ({"classes": 4, "labels": ()}, r"head\.weight is \(.*\) instead of \("),
        ({"network": {**TINY.network, "input_norm": None}}, r"network\.input_norm\.running_mean is surplus"),
        (
            {"network": {**TINY.network, "depths": (1, 1, 1, 2)}},
            r"network\.stages\.3\.blocks\.1\.norm\.bias is missing",
        ),
        ({"network": {**TINY.network, "type": "ResNext"}}, r"'ResNext'.*convnext_tiny"),
    ],
)
def test_a_model_that_does_not_fit_its_entry_is_not_saved(copy, fields, fault):
    before = contents(copy)
    with pytest.raises(ValueError, match=fault):
        zoo.save(copy, *filled(TINY, seed=1), dataclasses.replace(TINY, **fields))
    assert contents(copy) == before


def test_an_entry_that_is_no_json_leaves_the_old_folder_whole(copy):
    before = contents(copy)
    metrics = ({"dataset": "d", "metric": "m", "value": np.float32(0.5), "source": "s"},)
    with pytest.raises((TypeError, ValueError)):
        zoo.save(copy, *filled(TINY, seed=1), dataclasses.replace(TINY, metrics=metrics))
    assert contents(copy) == before


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail():
        with atomic(path) as temporary:
            temporary.write_bytes(b"half of the n")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        fail()
    assert contents(tmp_path) == {"a.bin": b"old"}
    with atomic(path) as temporary:
        temporary.write_bytes(b"new")
    assert contents(tmp_path) == {"a.bin": b"new"}


def test_saving_below_no_folder_raises(clip, tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        zoo.save(tmp_path / "none" / "tiny", clip.model, clip.state, clip.entry)
    assert not list(tmp_path.iterdir())


def test_labels_must_be_one_a_class():
    with pytest.raises(ValueError, match="3 classes and 2 labels"):
        dataclasses.replace(TINY, labels=("a", "b"))


# Broken folders


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_a_file_raises(copy, missing):
    (copy / missing).unlink()
    with pytest.raises(FileNotFoundError, match=rf"holds no {re.escape(missing)}.*config\.json and model\.safetensors"):
        zoo.load(copy)


@pytest.mark.parametrize(
    "fields, fault",
    [
        ({"colour": "red"}, r"unknown \['colour'\]"),
        ({"frontend": None, "task": None}, r"missing \['frontend', 'task'\]"),
        ({"network": {"type": "Conv2Former"}}, r"'Conv2Former'.*convnext_tiny"),
        ({"network": {"type": "partial"}}, r"'partial'.*convnext_tiny"),
        ({"network": {"type": "BatchNorm"}}, r"'BatchNorm'.*convnext_tiny"),
        ({"network": {"depths": [1]}}, r"None.*convnext_tiny"),
        ({"network": {"type": "convnext_tiny", "dilation": 2}}, "dilation"),
        ({"frontend": {"type": "LogMel", "sample_rate": 16000, "bans": 32}}, "bans"),
        ({"frontend": {"type": "convnext_tiny", "sample_rate": 16000}}, r"'convnext_tiny'.*LogMel"),
        ({"labels": ["a"]}, "3 classes and 1 labels"),
    ],
)
def test_a_config_that_describes_no_model_raises(copy, fields, fault):
    rewrite(copy / "config.json", **fields)
    with pytest.raises(ValueError, match=fault):
        zoo.load(copy)


@pytest.mark.parametrize(
    "fields, fault",
    [
        ({"classes": "3"}, "classes"),
        ({"task": "multi"}, "multi"),
        ({"network": {**TINY.network, "pool": "sum"}}, "sum"),
        ({"network": {**TINY.network, "widths": "wide"}}, "wide"),
        ({"frontend": {"type": "LogMel"}}, "sample_rate"),
        ({"frontend": {"type": "LogMel", "sample_rate": "16 kHz"}}, "sample_rate"),
        ({"frontend": "LogMel"}, "frontend"),
    ],
)
def test_a_config_with_a_wrong_type_raises_one_plain_sentence(copy, fields, fault):
    rewrite(copy / "config.json", **fields)
    with pytest.raises(ValueError, match=fault) as raised:
        zoo.load(copy)
    assert "\n" not in str(raised.value)


def test_a_window_of_whole_seconds_needs_no_decimal_point(copy):
    rewrite(copy / "config.json", window=1)
    assert zoo.load(copy).entry == TINY


@pytest.mark.parametrize("text, fault", [("{not json", "is not JSON"), ("[1, 2]", "holds a list"), ("", "is not JSON")])
def test_a_config_that_is_no_json_object_raises(copy, text, fault):
    (copy / "config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"config\.json {fault}"):
        zoo.load(copy)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.9])
def test_a_cut_weight_file_raises(copy, keep):
    path = copy / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a whole safetensors file.*again"):
        zoo.load(copy)


def test_missing_surplus_and_misshapen_weights_are_listed_at_once(copy):
    arrays = load_file(copy / "model.safetensors")
    del arrays["head.bias"]
    del arrays["network.input_norm.running_var"]
    arrays["tail.bias"] = np.zeros(3, np.float32)
    arrays["head.weight"] = np.zeros((5, 7), np.float32)
    save_file(arrays, copy / "model.safetensors")
    with pytest.raises(ValueError) as raised:
        zoo.load(copy)
    for part in (
        "copy/model.safetensors",
        "head.bias is missing",
        "network.input_norm.running_var is missing",
        "tail.bias is surplus",
        "head.weight is (5, 7) instead of (",
    ):
        assert part in str(raised.value)


# Names


def test_names_are_listed_by_pattern():
    names = zoo.list_models()
    assert names == sorted(set(names))
    assert {"convnext_audioset", "resnet_esc10"} <= set(names)
    assert "convnext_audioset" in zoo.list_models("*audioset*")
    assert "resnet_esc10" not in zoo.list_models("*audioset*")
    assert zoo.list_models("convnext_audioset") == ["convnext_audioset"]
    assert zoo.list_models("nothing*") == []


def test_info_tells_of_a_model_without_its_weights(folder):
    entry = zoo.info("convnext_audioset")
    assert (entry.classes, entry.task, entry.sample_rate, entry.license) == (527, "multilabel", 32000, "MIT")
    assert entry.metrics[0]["value"] == 0.471
    assert zoo.info(str(folder)) == TINY


LABEL_FILES = ("class_labels_indices.csv", "config.json", "assets/labels.csv")


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_model_tells_where_it_comes_from_and_is_built_without_a_network(name, monkeypatch):
    def connect(*_):
        raise AssertionError("a description needs no network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    entry = zoo.info(name)
    assert entry.license and entry.source and entry.paper and entry.sample_rate > 0
    others = ("beats", "clap", "perch")  # publishers tell of other weights, of several sets, or nothing
    assert entry.metrics or entry.task == "embedding" or name.startswith(others)
    assert all(each["source"] and each["value"] > 0 for each in entry.metrics)
    imagenet = {each["dataset"] for each in entry.metrics} == {"ImageNet-1k"}  # whose classes name no sounds
    checkpoint = entry.checkpoint
    known = checkpoint and checkpoint.label_file in (*LABEL_FILES, checkpoint.file)
    assert entry.labels or not entry.classifies or imagenet or known
    model, state = skeleton(entry)
    shapes = {name: leaf.shape for name, leaf in named_leaves(model, state).items()}
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in named_leaves(model, state).values())
    assert entry.classes == 0 or shapes["head.weight"][0] == entry.classes


@pytest.mark.parametrize("name, near", [("convnext_audiosets", "convnext_audioset"), ("resnet_esc50", "resnet_esc10")])
def test_an_unknown_name_suggests_the_nearest(name, near):
    for function in (zoo.load, zoo.info):
        with pytest.raises(ValueError, match=rf"no model '{name}': did you mean '{near}'\?.*list_models"):
            function(name)


def test_a_folder_that_is_not_there_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none is not a folder.*Hub repo"):
        zoo.load(tmp_path / "none")


def test_a_repo_that_is_neither_cached_nor_reachable_names_the_packaged_models():
    with pytest.raises(ConnectionError, match=r"nobody/nothing is neither in the Hub's cache nor.*resnet_esc10"):
        zoo.load("nobody/nothing")


def test_packaged_models_are_small_and_have_cards():
    assert packaged() == ["cola_small", "resnet_esc10", "resnet_fsdd", "simclr_small"]
    for name in packaged():
        entry, card = zoo.info(name), (PACKAGED / name / "README.md").read_text()
        assert entry.license and entry.source and entry.paper and entry.metrics
        assert card.startswith("---\n") and f'zoo.load("{name}")' in card and "audax-train" in card
        assert all(f"{metric['value']:.3f}" in card for metric in entry.metrics)
        facts = front_matter(entry)
        assert card.startswith(f"---\nlibrary_name: {json.dumps(facts['library_name'])}\n")
        assert f"model-index: {json.dumps(facts['model-index'])}\n" in card and f'license: "{facts["license"]}"' in card
    assert sum(path.stat().st_size for path in PACKAGED.rglob("*")) < 20e6


@pytest.mark.parametrize(
    "name, folder, step",
    [("resnet_esc10", "esc10", 8), ("resnet_fsdd", "fsdd", 50)],
)
def test_packaged_classifiers_name_recordings(shared, name, folder, step):
    rows, loaded = recordings(shared / "data" / folder)[::step], zoo.load(name)
    heard = [loaded.top(cut(path, loaded.sample_rate, loaded.entry.window), k=1)[0][0] for path, _ in rows]
    assert np.mean([label == wanted for label, (_, wanted) in zip(heard, rows, strict=True)]) >= 0.9


@pytest.mark.parametrize("name", ["cola_small", "simclr_small"])
def test_packaged_encoders_bring_like_sounds_together(shared, name):
    rows, loaded = recordings(shared / "data" / "esc10")[::4], zoo.load(name)
    labels = np.array([label for _, label in rows])
    waves = np.stack([cut(path, loaded.sample_rate, 5.0) for path, _ in rows])

    embed = eqx.filter_jit(lambda clip: eqx.filter_vmap(clip.embed)(waves))

    def nearest(clip):
        """How often the nearest other recording has the same label."""
        found = np.asarray(embed(clip))
        found = found - found.mean(axis=0)
        found = found / np.linalg.norm(found, axis=1, keepdims=True)
        distances = np.linalg.norm(found[:, None] - found, axis=-1)
        np.fill_diagonal(distances, np.inf)
        return np.mean(labels[distances.argmin(axis=1)] == labels)

    def untrained(seed):
        model, state = zoo.create(loaded.entry, key=jax.random.key(seed))
        return nearest(zoo.Pretrained(eqx.nn.inference_mode(model), state, loaded.entry))

    # One random network says little: over seeds they reach 0.43 on average, with a standard deviation of 0.04.
    assert nearest(loaded) > max(map(untrained, range(5)))


def recordings(folder):
    """Paths and labels."""
    with open(folder / "manifest.csv", newline="") as file:
        return [(folder / row["files"], row["labels"]) for row in csv.DictReader(file)]


def cut(path, sample_rate, seconds):
    """The recording in that length."""
    size = round(seconds * sample_rate)
    wave = zoo.read(path, sample_rate)[:size]
    return np.pad(wave, (0, size - len(wave)))


def test_the_model_computes_in_bfloat16_when_its_parameters_are(clip):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), eqx.filter(clip.model, eqx.is_array))
    half = eqx.combine(half, eqx.filter(clip.model, eqx.is_array, inverse=True))
    cast = eqx.tree_at(lambda each: each.model, clip, half)
    wave = noise()
    assert cast.embed(wave).dtype == cast.frames(wave).dtype == jnp.bfloat16
    assert cast(wave).dtype == jnp.float32
    for method in ("__call__", "embed", "frames"):
        ours, theirs = (np.asarray(getattr(each, method)(wave), np.float32) for each in (cast, clip))
        assert 0 < np.abs(ours - theirs).max() / np.abs(theirs).max() < 3e-2


def test_float16_does_not_hold_everything(clip, tmp_path):
    model = eqx.tree_at(lambda tree: tree.head.bias, clip.model, jnp.array([0.0, 1e5, 0.0]))
    with pytest.raises(ValueError, match=r"float16 ends at 65504, which head\.bias exceed"):
        zoo.save(tmp_path / "model", model, clip.state, clip.entry, dtype="float16")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("fields", [{"window": 0.0}, {"classes": -1, "labels": ()}, {"frontend": {"type": "LogMel"}}])
def test_an_entry_needs_sizes_that_make_sense(fields):
    with pytest.raises(ValueError, match="needs a frontend with a sample_rate in Hz, classes and a window"):
        dataclasses.replace(TINY, **fields)


@pytest.mark.parametrize("model", ["Classifier", "COLA", "SimCLR", "Encoder", None])
@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("task", ["multiclass", "multilabel", "contrastive", "embedding"])
def test_a_classifier_has_classes_and_other_models_have_none(model, classes, task):
    fields = {"model": {"type": model}, "classes": classes, "task": task, "labels": ()}
    tasks = {"Classifier": ("multiclass", "multilabel"), "Encoder": ("embedding",)}.get(model, ("contrastive",))
    if task in tasks and (classes == 3) == (model == "Classifier"):
        entry = dataclasses.replace(TINY, **fields)
        assert (entry.model["type"], entry.classes, entry.task) == (model, classes, task)
        assert entry.classifies == (model == "Classifier")
    else:
        with pytest.raises(ValueError, match=f"tiny is a {model} with {classes} classes and the task '{task}': a"):
            dataclasses.replace(TINY, **fields)


@pytest.mark.parametrize(
    "model, fault",
    [
        ({"type": "CLIP"}, r"names 'CLIP', which is not in audax_eqx\.models: it has .*COLA, .*Classifier, .*SimCLR"),
        ({"type": "COLA", "widht": 8}, "options that COLA does not take.*widht"),
        ({"type": "COLA", "similarity": "cosine"}, "COLA an option that makes no sense to it.*cosine"),
        ({"type": "SimCLR", "temperature": 0.0}, "temperature, which must be > 0"),
        ({"type": "SimCLR", "classes": 3}, "options that SimCLR does not take.*classes"),
        ({"type": "COLA", "frontend": 3}, "gives COLA frontend, which the entry itself decides"),
    ],
)
def test_a_config_whose_model_cannot_be_built_raises(copy, model, fault):
    rewrite(copy / "config.json", model=model, classes=0, task="contrastive", labels=None)
    with pytest.raises(ValueError, match=fault) as raised:
        zoo.load(copy)
    assert "\n" not in str(raised.value)


def test_a_classifiers_own_options_are_the_entrys(copy):
    rewrite(copy / "config.json", model={"type": "Classifier", "classes": 5})
    with pytest.raises(ValueError, match="gives Classifier classes, which the entry itself decides"):
        zoo.load(copy)


def test_a_revision_of_a_folder_makes_no_sense(folder):
    with pytest.raises(ValueError, match="is a folder: leave it out"):
        zoo.load(folder, revision="main")


# The Hub's cache


def cached(home, repo, revision, sha, files):
    """Lays files into a Hub cache below `home`, as the Hub's client does."""
    repo_folder = home / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot = repo_folder / "snapshots" / sha
    snapshot.mkdir(parents=True)
    (repo_folder / "refs").mkdir(exist_ok=True)
    (repo_folder / "refs" / revision).write_text(sha)
    for name, content in files.items():
        (snapshot / name).write_bytes(content)
    return snapshot


OWN_REPO = """
import json, sys, numpy as np, zoo
def weight(*name, **options):
    return np.asarray(zoo.load(*name, **options).model.head.weight).tolist()
def fault(*name, **options):
    try:
        zoo.load(*name, **options)
    except OSError as error:
        return type(error).__name__, str(error)
name, old = sys.argv[1:]
print(json.dumps({
    "main": weight(name), "tag": weight(name, revision="v1"), "sha": weight(name, revision=old),
    "labels": zoo.load(name).labels, "no tag": fault(name, revision="v9"), "no repo": fault("owner/none"),
}))
"""


def test_a_self_describing_repo_loads_from_the_cache_at_each_revision(folder, tmp_path):
    zoo.save(tmp_path / "old", *filled(TINY, seed=1), TINY)
    new, old = "1" * 40, "2" * 40
    cached(tmp_path, "owner/tiny", "main", new, contents(folder))
    cached(tmp_path, "owner/tiny", "v1", old, contents(tmp_path / "old"))
    told = python(OWN_REPO, "owner/tiny", old, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    np.testing.assert_array_equal(told["main"], filled(TINY)[0].head.weight)
    np.testing.assert_array_equal(told["tag"], filled(TINY, seed=1)[0].head.weight)
    assert told["sha"] == told["tag"]
    assert tuple(told["labels"]) == TINY.labels
    for case, part in (("no tag", "owner/tiny at revision v9"), ("no repo", "owner/none")):
        kind, message = told[case]
        assert kind == "ConnectionError"
        assert part in message


@pytest.fixture
def dying_endpoint():
    """The address of a server that closes every connection without an answer."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                server.accept()[0].close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}"
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(timeout=10)


def test_a_warm_cache_survives_a_server_that_hangs_up(folder, tmp_path, dying_endpoint):
    cached(tmp_path, "owner/tiny", "main", "1" * 40, contents(folder))
    code = """
import json, sys, zoo
told = {"labels": zoo.load(sys.argv[1]).labels}
try:
    zoo.load("owner/none")
except ConnectionError as error:
    told["none"] = str(error)
print(json.dumps(told))
"""
    told = python(code, "owner/tiny", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="0", HF_ENDPOINT=dying_endpoint)
    assert tuple(told["labels"]) == TINY.labels
    assert "neither in the Hub's cache nor reachable" in told["none"]


def seeded_checkpoint(salt):
    """The arrays of the published ConvNeXt's file, seeded in place of trained."""
    spec = importlib.util.spec_from_file_location("seeded", SHARED / "oracles" / "seeded.py")
    seeded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(seeded)
    keys = json.loads((SHARED / "oracles" / "convnext_audioset" / "keys.json").read_text())
    arrays = seeded.seeded_state(keys["keys"], keys["salt"] if salt is None else salt)
    arrays["bn0.running_mean"] = (-45 + 5 * arrays["bn0.running_mean"]).astype(np.float32)
    arrays["bn0.running_var"] = (200 * arrays["bn0.running_var"]).astype(np.float32)
    return arrays | {key: np.zeros(shape, np.float32) for key, shape in keys["frontend_keys"].items()}


def audioset_cache(home, arrays):
    """A Hub cache that holds `arrays` as the published ConvNeXt's file."""
    labels = (SHARED / "oracles" / "audioset_class_labels_indices.csv").read_bytes()
    snapshot = cached(home, "topel/ConvNeXt-Tiny-AT", "main", "7" * 40, {"class_labels_indices.csv": labels})
    save_file(arrays, snapshot / "model.safetensors")
    return home


AUDIOSET = """
import json, sys
import equinox as eqx, jax, jax.numpy as jnp, numpy as np
import huggingface_hub.hf_api  # before memory is measured
import zoo
def memory(kind):
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith(kind))
def error(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
golden = np.load(sys.argv[1])
wave = golden["wave"]
jax.block_until_ready(jnp.zeros(1) + 1)
zoo.load("resnet_esc10")  # imports what loading takes
before = memory("VmRSS")
clip = zoo.load("convnext_audioset")
told = {"memory": memory("VmHWM") - before}
@eqx.filter_jit
def stages(clip, waves):
    def one(wave):
        log_mel = clip.model.frontend(wave)
        features, _ = clip.model.network.features(log_mel, clip.state)
        return {"log_mel": log_mel, "frames": features.transpose(2, 0, 1), "embedding": clip.embed(wave)}
    return jax.vmap(one)(waves)
batch = np.stack([wave, wave[::-1]])
of_batch = stages(clip, batch)
for name, array in of_batch.items():
    told[name] = error(array[0], golden[name])
told["logits"] = error(clip(wave), golden["logits"])
told["labels"], told["top"] = clip.labels, clip.top(wave, 5)
told["batch"] = error(of_batch["embedding"], [clip.embed(each) for each in batch])
told["times"] = clip.frame_times(31).tolist()
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def audioset(tmp_path_factory):
    """What a process tells of the published ConvNeXt, loaded offline from a cache with seeded weights."""
    if not SHARED.is_dir():
        pytest.skip("the folder ../shared with oracles is not here")
    home = audioset_cache(tmp_path_factory.mktemp("audioset"), seeded_checkpoint(None))
    golden = SHARED / "oracles" / "convnext_audioset" / "golden.npz"
    told = python(AUDIOSET, golden, HF_HOME=str(home), HF_HUB_OFFLINE="1")
    return told | {"file": next(home.rglob("model.safetensors")).stat().st_size}


@pytest.mark.parametrize("stage", ["log_mel", "frames", "embedding", "logits"])
def test_convnext_audioset_agrees_with_its_publishers_code(audioset, stage):
    assert audioset[stage] < 1e-4


def test_convnext_audioset_names_the_labels_of_the_largest_logits(audioset, shared):
    with np.load(shared / "oracles/convnext_audioset/golden.npz") as golden:
        logits = golden["logits"].astype(np.float64)
    best = np.argsort(-logits)[:5]
    assert (audioset["labels"][0], audioset["labels"][2], len(audioset["labels"])) == (
        "Speech",
        "Female speech, woman speaking",
        527,
    )
    assert [label for label, _ in audioset["top"]] == [audioset["labels"][index] for index in best]
    np.testing.assert_allclose([value for _, value in audioset["top"]], 1 / (1 + np.exp(-logits[best])), atol=1e-4)


def test_convnext_audioset_maps_over_a_batch(audioset):
    assert audioset["batch"] < 1e-5


def test_convnext_audioset_frames_lie_32_hops_apart(audioset):
    np.testing.assert_allclose(audioset["times"], (np.arange(31) * 32 + 11.5) * 0.01, rtol=1e-6)


def test_loading_takes_little_more_memory_than_the_file_and_its_arrays(audioset):
    assert audioset["memory"] < 2.5 * audioset["file"]


UNREACHABLE = """
import json, numpy as np, zoo
clip = zoo.load("convnext_audioset")
network = clip.model.network
leaves = {
    "head_audioset.weight": clip.model.head.weight,
    "stages.2.8.gamma": network.stages[2].blocks[8].layer_scale,
    "bn0.running_var": clip.state.get(network.input_norm.running_var),
}
print(json.dumps({key: np.asarray(leaf).tolist() for key, leaf in leaves.items()}))
"""


def test_a_warm_cache_needs_no_hub_and_its_arrays_are_what_loads(shared, tmp_path):
    arrays = seeded_checkpoint("another salt")
    told = python(UNREACHABLE, HF_HOME=str(audioset_cache(tmp_path, arrays)), HF_ENDPOINT="http://127.0.0.1:9")
    for key, leaf in told.items():
        np.testing.assert_array_equal(np.asarray(leaf, np.float32), arrays[key])


FAULT = """
import json, zoo
try:
    zoo.load("convnext_audioset")
except ValueError as error:
    print(json.dumps(str(error)))
"""


def test_a_checkpoint_that_its_table_does_not_read_lists_every_fault(shared, tmp_path):
    keys = json.loads((shared / "oracles" / "convnext_audioset" / "keys.json").read_text())["keys"]
    arrays = {key: np.zeros(shape, np.float16) for key, shape in keys.items()}
    del arrays["norm.bias"], arrays["stages.2.8.gamma"]
    arrays["head_speech.weight"] = np.zeros(1, np.float16)
    arrays["stages.3.3.gamma"] = np.zeros(768, np.float16)
    arrays["head_audioset.bias"] = np.zeros(528, np.float16)
    arrays["downsample_layers.1.1.weight"] = np.zeros((192, 96, 2, 3), np.float16)
    message = python(FAULT, HF_HOME=str(audioset_cache(tmp_path, arrays)), HF_HUB_OFFLINE="1")
    for part in (
        "model.safetensors",
        "head_speech.weight matches 0 rules",
        "network.norm.bias is missing",
        "network.stages.2.blocks.8.layer_scale is missing",
        "network.stages.3.blocks.3.layer_scale is surplus",
        "head.bias is (528,) instead of (527,)",
        "network.stages.1.reduce.patchify.weight is (2, 3, 96, 192) instead of (2, 2, 96, 192)",
    ):
        assert part in message


# The door


def test_shapes_and_dtypes_of_what_a_model_gives(clip):
    wave = noise()
    for array, shape in ((clip(wave), (3,)), (clip.embed(wave), (16,)), (clip.frames(wave), (3, 16))):
        assert isinstance(array, jax.Array)
        assert (array.shape, array.dtype) == (shape, jnp.float32)
    assert (clip.sample_rate, clip.labels) == (16000, ("a", "b", "c"))


def test_logits_are_the_head_of_the_embedding(clip):
    head = clip.model.head
    logits = np.asarray(head.weight, np.float64) @ np.asarray(clip.embed(noise())) + np.asarray(head.bias)
    assert difference(clip(noise()), logits) < 1e-5


def test_the_embedding_pools_the_frames(clip):
    frames = np.asarray(clip.frames(noise()), np.float64)
    pooled = frames.mean(axis=0) + frames.max(axis=0)
    norm = clip.model.network.norm
    normal = (pooled - pooled.mean()) / np.sqrt(pooled.var() + 1e-6)
    assert difference(clip.embed(noise()), normal * np.asarray(norm.weight) + np.asarray(norm.bias)) < 1e-4


def test_probabilities_of_a_multiclass_model_are_a_softmax(clip):
    probabilities, logits = np.asarray(clip.probabilities(noise())), np.asarray(clip(noise()), np.float64)
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(probabilities, np.exp(logits) / np.exp(logits).sum(), rtol=1e-5)


def test_probabilities_of_a_multilabel_model_are_a_sigmoid_each(clip):
    many = eqx.tree_at(lambda tree: tree.model.head.bias, clip, clip.model.head.bias + 1)
    many = dataclasses.replace(many, entry=dataclasses.replace(TINY, task="multilabel"))
    logits = np.asarray(many(noise()), np.float64)
    np.testing.assert_allclose(many.probabilities(noise()), 1 / (1 + np.exp(-logits)), rtol=1e-5)


def test_top_ranks_the_labels(clip):
    probabilities = np.asarray(clip.probabilities(noise()))
    top = clip.top(noise(), k=2)
    assert top == [("abc"[index], float(probabilities[index])) for index in np.argsort(-probabilities)[:2]]
    assert clip.top(noise())[:2] == top
    assert len(clip.top(noise())) == 3


@pytest.mark.parametrize("k", [0, -1])
def test_top_of_no_labels_raises(clip, k):
    with pytest.raises(ValueError, match=f"at least 1, got {k}"):
        clip.top(noise(), k=k)


def test_classes_without_labels_are_numbered(clip):
    bare = dataclasses.replace(clip, entry=dataclasses.replace(TINY, labels=()))
    assert bare.labels == ("class 0", "class 1", "class 2")


def test_frame_times_are_the_centres_of_32_hops(clip):
    times = clip.frame_times(len(clip.frames(noise())))
    np.testing.assert_allclose(times, [0.155, 0.475, 0.795], rtol=1e-6)
    assert (np.diff(clip.frame_times(100)) > 0).all()


def test_a_click_moves_the_frame_whose_time_is_nearest(clip):
    quiet = noise() * 1e-3
    for index, seconds in enumerate(clip.frame_times(3)):
        loud = quiet.copy()
        centre = round(seconds * 16000)
        loud[centre - 400 : centre + 400] += noise(800, seed=1)
        moved = np.abs(clip.frames(loud) - clip.frames(quiet)).sum(axis=1)
        assert np.argmax(moved) == index


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_floating_point_samples_are_taken(clip, dtype):
    wave = noise().astype(dtype)
    np.testing.assert_array_equal(clip(wave), clip(wave.astype(np.float32)))


def test_jax_arrays_are_taken(clip):
    np.testing.assert_array_equal(clip(jnp.asarray(noise())), clip(noise()))


@pytest.mark.parametrize("level", [0.0, 1.0, 1e-30])
def test_constant_waves_give_finite_outputs(clip, level):
    wave = np.full(SAMPLES, level, np.float32)
    for output in (clip(wave), clip.embed(wave), clip.frames(wave), clip.probabilities(wave)):
        assert np.isfinite(output).all()


def test_the_shortest_wave_gives_finite_outputs(clip):
    assert np.isfinite(clip(noise(clip.model.frontend.min_samples))).all()


@pytest.mark.parametrize("method", ["__call__", "probabilities", "top", "embed", "frames"])
@pytest.mark.parametrize(
    "wave, kind, fault",
    [
        (np.zeros((2, SAMPLES), np.float32), ValueError, r"mono.*\(2, 16000\).*average the channels.*filter_vmap"),
        (np.zeros((SAMPLES, 2), np.float32), ValueError, r"mono.*\(16000, 2\).*average the channels"),
        (np.zeros(()), ValueError, r"mono.*\(\)"),
        (np.zeros(SAMPLES, np.int16), TypeError, r"floating-point.*int16.*32768"),
        (np.zeros(SAMPLES, bool), TypeError, r"floating-point.*bool"),
        (np.zeros(SAMPLES, np.complex64), TypeError, r"floating-point.*complex64"),
        (np.zeros(0, np.float32), ValueError, r"257 samples.*got 0.*pad"),
        (np.zeros(256, np.float32), ValueError, r"257 samples \(0\.016 s at 16000 Hz\).*got 256.*pad"),
        (np.full(SAMPLES, np.nan, np.float32), ValueError, r"finite.*16000 NaN or infinite ones of 16000.*nan_to_num"),
        (np.append(np.zeros(SAMPLES - 1), np.inf), ValueError, r"finite.*got 1 NaN or infinite ones of 16000"),
        ([0.0] * SAMPLES, TypeError, r"NumPy or JAX array.*a list.*zoo\.read\(path, 16000\)"),
        ("dog.wav", TypeError, r"NumPy or JAX array.*a str.*zoo\.read\(path, 16000\)"),
        (None, TypeError, r"NumPy or JAX array.*a NoneType"),
    ],
    ids=[
        "batch",
        "stereo",
        "scalar",
        "int16",
        "bool",
        "complex",
        "empty",
        "short",
        "nan",
        "inf",
        "list",
        "path",
        "none",
    ],
)
def test_what_is_no_clip_raises_with_the_remedy(clip, method, wave, kind, fault):
    with pytest.raises(kind, match=fault):
        getattr(clip, method)(wave)


def test_samples_beyond_float32_are_not_finite(clip):
    with pytest.raises(ValueError, match="finite"):
        clip(np.full(SAMPLES, 1e300))


@pytest.mark.parametrize("method", ["__call__", "probabilities", "top", "embed", "frames"])
def test_another_sample_rate_raises_with_the_remedy(clip, method):
    call = getattr(clip, method)
    fault = (
        r"tiny takes waves at 16000 Hz, got sample_rate=44100.*zoo\.read\(path, 16000\).*resample\(wave, 44100, 16000\)"
    )
    with pytest.raises(ValueError, match=fault):
        call(noise(), sample_rate=44100)
    with jax.debug_nans(True):
        call(noise(), sample_rate=16000)


def test_a_mapped_model_equals_the_loop(clip):
    waves = np.stack([noise(seed=seed) for seed in range(3)])
    together = eqx.filter_jit(eqx.filter_vmap(clip.embed))(waves)
    assert difference(together, [clip.embed(wave) for wave in waves]) < 1e-5


# Fine-tuning


def loss(parameters, static, state, waves):
    model = eqx.combine(parameters, static)
    outputs, state = jax.vmap(model, (0, None), (0, None), axis_name="batch")(waves, state)
    return jnp.mean(jnp.square(outputs - 1)), state


def test_thaw_trains_a_copy():
    entry = dataclasses.replace(TINY, network={**TINY.network, "depths": (1,), "widths": (8,)})
    model, state = filled(entry)
    clip = zoo.Pretrained(eqx.nn.inference_mode(model), state, entry)
    before = jax.tree.map(np.array, named_leaves(clip.model, clip.state))
    model, state = clip.thaw(classes=5, key=jax.random.key(0))
    parameters, static = eqx.partition(model, eqx.is_inexact_array)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(parameters, state, waves):
        gradients, state = jax.grad(loss, has_aux=True)(parameters, static, state, waves)
        return jax.tree.map(lambda leaf, gradient: leaf - 0.01 * gradient, parameters, gradients), state

    waves = np.stack([noise(seed=seed) for seed in range(2)])
    stepped, state = step(parameters, state, waves)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(parameters))
    after = named_leaves(eqx.combine(stepped, static), state)
    assert {name for name in before if after[name].shape != before[name].shape} == {"head.weight", "head.bias"}
    for name in ("network.input_norm.running_mean", "network.stages.0.reduce.patchify.weight", "network.norm.bias"):
        assert np.isfinite(after[name]).all()
        assert not np.array_equal(after[name], before[name]), name
    assert_equal_arrays(named_leaves(clip.model, clip.state), before)


def test_thaw_gives_a_fresh_head_and_keeps_the_rest(clip):
    model, state = clip.thaw(classes=5, key=jax.random.key(0))
    other, _ = clip.thaw(classes=5, key=jax.random.key(1))
    assert isinstance(model, Classifier)
    assert model.classes == 5
    assert not np.array_equal(model.head.weight, other.head.weight)
    ours, theirs = named_leaves(model, state), named_leaves(clip.model, clip.state)
    fresh = {"head.weight", "head.bias"}
    assert_equal_arrays(
        {name: ours[name] for name in ours.keys() - fresh}, {name: theirs[name] for name in theirs.keys() - fresh}
    )


def test_thaw_without_classes_keeps_the_head(clip):
    model, state = clip.thaw(key=jax.random.key(0))
    assert_equal_arrays(named_leaves(model, state), named_leaves(clip.model, clip.state))


def test_thaw_is_in_training_mode_and_the_clip_is_not(clip):
    model, state = clip.thaw(key=jax.random.key(0))
    assert not model.network.input_norm.inference
    assert clip.model.network.input_norm.inference
    with pytest.raises(RuntimeError, match="inference_mode"):
        model(jnp.asarray(noise()), state)


def test_a_thawed_model_saves_under_an_entry_of_its_own(clip, tmp_path):
    model, state = clip.thaw(classes=2, key=jax.random.key(0))
    entry = dataclasses.replace(TINY, name="mine", classes=2, labels=("x", "y"), metrics=())
    zoo.save(tmp_path / "mine", model, state, entry)
    loaded = zoo.load(tmp_path / "mine")
    assert loaded.entry == entry
    assert_equal_arrays(named_leaves(loaded.model, loaded.state), named_leaves(model, state))
