"""CED against its publisher's numbers through the zoo, its chunks, its position embeddings and its published sizes."""

import functools
import importlib.util
import json
import shutil

import equinox as eqx
import huggingface_hub.constants
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import error, noise
from golden.seeded import fill
from safetensors.numpy import save_file

import zoo
from audax_eqx import networks
from audax_eqx.networks import CED
from zoo._leaves import named_leaves

KEY = jax.random.key(0)
BINS, FRAMES, PATCH = 24, 40, 8  # 5 x 3 patches


@functools.cache
def ced(width=8, depth=1, heads=2, **options):
    """A small network in inference mode, with seeded weights and statistics, and its State."""
    network, state = fill(functools.partial(CED, width, depth, heads, **{"bins": BINS, "frames": FRAMES} | options))
    return eqx.nn.inference_mode(network), state


small = functools.partial(ced, patch=PATCH)


@eqx.filter_jit
def run(network, state, x, key=None):
    """The feature map and the embedding; compiled together, because XLA shares what they have in common."""
    return network.features(x, state, key=key)[0], network(x, state, key=key)[0]


def filled(network, state, x, frames):
    """`x`, lengthened to `frames` by frames that the input norm makes zero."""
    norm = network.input_norm
    deviation = jnp.sqrt(state.get(norm.running_var) + norm.eps)
    zero = state.get(norm.running_mean) - deviation * norm.bias / norm.weight
    return jnp.concatenate([x, jnp.broadcast_to(zero, (frames - len(x), x.shape[1]))])


# The publisher's numbers ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """An empty cache in place of the Hub's."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("hub")
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home))
        yield home


def snapshot(cache, repo, *revisions):
    """The folder of a repo's files in the cache, which these revisions name."""
    folder, commit = cache / f"models--{repo.replace('/', '--')}", "5" * 40
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "refs").mkdir()
    for revision in revisions:
        (folder / "refs" / revision).write_text(commit)
    return folder / "snapshots" / commit


@pytest.fixture
def hub(shared, cache):
    """The cache with the published CED-Tiny, seeded, at the revisions main and v1, and AudioSet's labels."""
    if not any(cache.iterdir()):
        spec = importlib.util.spec_from_file_location("seeded", shared / "oracles" / "seeded.py")
        seeded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(seeded)
        keys = json.loads((shared / "oracles" / "ced" / "keys.json").read_text())
        arrays = seeded.seeded_state(keys["keys"], keys["salt"])
        mean, variance = "encoder.init_bn.running_mean", "encoder.init_bn.running_var"
        arrays |= {mean: np.float32(-20 + 10 * arrays[mean]), variance: np.float32(300 * arrays[variance])}
        folder = snapshot(cache, "mispeech/ced-tiny", "main", "v1")
        save_file(arrays, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"model_type": "ced", "name": "ced-tiny"}))
        (folder / "preprocessor_config.json").write_text("{}")
        labels = snapshot(cache, "topel/ConvNeXt-Tiny-AT", "main") / "class_labels_indices.csv"
        shutil.copy(shared / "oracles" / "audioset_class_labels_indices.csv", labels)
    return cache


def test_ced_tiny_audioset_agrees_with_its_publishers_code(shared, hub):
    clip = zoo.load("ced_tiny_audioset")
    with np.load(shared / "oracles" / "ced" / "golden.npz") as file:
        golden = dict(file)

    @eqx.filter_jit
    def stages(clip, wave):
        x = clip.model.frontend(wave)
        y, _ = clip.model.network.features(x, clip.state)
        return x, y, jnp.mean(y, axis=(0, 1))

    x, y, embedding = stages(clip, golden["wave"])
    assert error(x.T, golden["features"]) < 1e-5
    assert error(y, golden["tokens"].reshape(4, 62, 192).transpose(1, 0, 2)) < 1e-4  # theirs: bin by bin, all times
    assert error(embedding, golden["embedding"]) < 1e-4
    probabilities = clip.probabilities(golden["wave"])
    assert error(probabilities, golden["probabilities"]) < 1e-4

    best = np.argsort(-golden["probabilities"])[:5]
    top = clip.top(golden["wave"], 5)
    assert [label for label, _ in top] == [clip.labels[index] for index in best]
    assert clip.labels[2] == "Female speech, woman speaking" and len(clip.labels) == 527
    np.testing.assert_allclose(clip.frame_times(62), (np.arange(62) * 16 + 7.5) * 0.01)


def test_a_revision_is_of_the_weights_and_a_repo_describes_itself(hub):
    published = zoo.load("ced_tiny_audioset", revision="v1")  # the labels' repo has none of that name
    itself = zoo.load("mispeech/ced-tiny")
    assert published.labels[0] == "Speech"
    assert (itself.entry.classes, itself.entry.task, itself.entry.window) == (527, "multilabel", 10.11)
    ours, theirs = (named_leaves(clip.model, clip.state) for clip in (published, itself))
    assert ours.keys() == theirs.keys()
    for name, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[name])
    wave = noise(4000)
    frontends = (eqx.filter_jit(clip.model.frontend) for clip in (published, itself))
    np.testing.assert_array_equal(*(frontend(wave) for frontend in frontends))


PARAMETERS = {  # the publisher's modules without their output layer
    "ced_tiny": 5_401_088,
    "ced_mini": 9_560_704,
    "ced_small": 21_418_880,
    "ced_base": 85_304_960,
}
PRECISIONS = {"ced_tiny": 0.481, "ced_mini": 0.490, "ced_small": 0.496, "ced_base": 0.500}


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_variants_have_the_published_number_of_parameters(name, parameters):
    network, _ = eqx.filter_eval_shape(eqx.nn.make_with_state(getattr(networks, name)), key=KEY)
    assert sum(leaf.size for leaf in jax.tree.leaves(network) if hasattr(leaf, "shape")) == parameters
    assert network.width // network.blocks[0].attention.heads == 64
    assert (len(network.time_embedding), len(network.freq_embedding)) == (63, 4)


@pytest.mark.parametrize(("name", "precision"), PRECISIONS.items())
def test_published_entries_say_whose_they_are(name, precision):
    entry, repo = zoo.info(f"{name}_audioset"), f"mispeech/{name.replace('_', '-')}"
    assert (entry.classes, entry.task, entry.sample_rate, entry.license) == (527, "multilabel", 16000, "Apache-2.0")
    assert entry.network["type"] == name and entry.checkpoint.repo == repo
    (metric,) = entry.metrics
    assert (metric["value"], metric["source"]) == (precision, f"the publisher, {repo}")


# Chunks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [80, 81])  # two whole chunks, and one frame more
def test_a_long_input_is_its_chunks_one_by_one(frames):
    network, state = small()
    x = noise(frames, BINS)
    chunks = [x[start : start + FRAMES] for start in range(0, frames, FRAMES)]
    chunks[-1] = filled(network, state, chunks[-1], FRAMES)
    maps = np.concatenate([run(network, state, chunk)[0] for chunk in chunks])
    y, embedding = run(network, state, x)
    assert len(maps) == 5 * len(chunks)
    assert error(y, maps) < 1e-5
    assert error(embedding, maps.mean(axis=(0, 1))) < 1e-5


@pytest.mark.parametrize(("frames", "time"), [(1, 1), (15, 1), (16, 2), (39, 4)])
def test_an_input_is_filled_up_to_a_patch_and_no_further(frames, time):
    network, state = small(depth=0)
    x = noise(frames, BINS)
    y, embedding = run(network, state, x)
    whole, _ = run(network, state, filled(network, state, x, PATCH) if frames < PATCH else x[: time * PATCH])
    assert y.shape == (time, 3, 8)
    assert error(y, whole) < 1e-5
    assert error(embedding, np.mean(y, axis=(0, 1))) < 1e-5


def test_fewer_bins_than_a_patch_are_filled_up():
    network, state = ced(depth=0, patch=32)
    assert run(network, state, noise(40, BINS))[0].shape == (1, 1, 8)


def test_each_chunk_drops_paths_of_its_own():
    network, state = small(depth=2, drop_path=0.9)
    network = eqx.nn.inference_mode(network, value=False)
    network = eqx.tree_at(lambda network: network.input_norm.inference, network, True)
    x = jnp.tile(noise(FRAMES, BINS), (8, 1))
    chunks = np.asarray(run(network, state, x, KEY)[0]).reshape(8, -1)
    assert 1 < len(np.unique(np.round(chunks, 3), axis=0)) <= 4  # the two branches of the second block, kept or not
    with pytest.raises(RuntimeError, match="DropPath trains with a random key"):
        eqx.filter_eval_shape(network, x, state)


# Positions ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "steps"), [(17, [0, 1]), (70, [*range(5), *range(5)])])
def test_a_patch_knows_its_time_in_the_chunk_and_its_frequency(frames, steps):
    network, state = small(depth=0)
    silent = eqx.tree_at(lambda n: n.patchify, network, jax.tree.map(jnp.zeros_like, network.patchify))
    sums = np.asarray(network.time_embedding)[steps, None] + np.asarray(network.freq_embedding)[None]
    np.testing.assert_allclose(run(silent, state, noise(frames, BINS))[0], network.norm(jnp.asarray(sums)), atol=1e-5)


def test_positions_are_the_centres_of_the_frames_that_a_step_sees():
    network, state = ced(depth=0, frames=20, patch=8)  # of each 20 frames the last 4 are cut off
    x = noise(60, BINS)
    batch = eqx.filter_jit(eqx.filter_vmap(lambda network, x: network.features(x, state)[0], in_axes=(None, 0)))
    raised = x[None] + 3 * np.eye(61, 60, dtype=np.float32)[:, :, None]
    maps = np.asarray(batch(network, raised))
    change = np.abs(maps[:-1] - maps[-1:]).max(axis=(2, 3)) > 1e-3  # frame x step
    centres = network.positions(6)
    np.testing.assert_array_equal(change, np.abs(centres[None] - np.arange(60)[:, None]) < 4)
    np.testing.assert_array_equal(change.any(axis=1), np.arange(60) % 20 < 16)


# Options --------------------------------------------------------------------------------------------------------------


def test_drop_path_rates_rise_linearly_with_depth():
    network, _ = eqx.filter_eval_shape(eqx.nn.make_with_state(CED), 8, 3, 2, drop_path=0.4, key=KEY)
    np.testing.assert_allclose([block.drop_path.rate for block in network.blocks], [0.0, 0.2, 0.4], atol=1e-12)


def test_the_mlp_and_the_bias_have_options():
    network, _ = eqx.filter_eval_shape(eqx.nn.make_with_state(CED), 8, 1, 2, mlp_width=20, qkv_bias=False, key=KEY)
    (block,) = network.blocks
    assert block.expand.weight.shape == (20, 8)
    assert block.attention.qkv.bias is None and block.attention.output.bias is not None


@pytest.mark.parametrize("options", [{"frames": 0}, {"bins": 0}, {"patch": 0}])
def test_sizes_are_at_least_one(options):
    with pytest.raises(
        ValueError, match="CED cuts frames x bins into patches and takes sizes of at least 1, got frames"
    ):
        CED(8, 1, 2, **options, key=KEY)


def test_heads_divide_the_width():
    with pytest.raises(ValueError, match="choose heads that divide 8, got 3"):
        eqx.filter_eval_shape(eqx.nn.make_with_state(CED), 8, 1, 3, key=KEY)
