"""Models in the Hub's cache, each loaded by a process of its own, and the outputs of a published one."""

import contextlib
import importlib.util
import json
import socket
import threading

import numpy as np
import pytest
import tiny
from hub_cache import make_snapshot
from processes import ROOT, run_python
from safetensors.numpy import save_file
from tiny import TINY, contents, seed_model

import zoo

folder = tiny.folder
SHARED = ROOT.parent / "shared"


def fill_cache(home, repo, revision, sha, files):
    """Lays files into a Hub cache below `home`, as the Hub's client does."""
    snapshot = make_snapshot(home / "hub", repo, sha, revision)
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
    zoo.save(tmp_path / "old", *seed_model(TINY, seed=1), TINY)
    new, old = "1" * 40, "2" * 40
    fill_cache(tmp_path, "owner/tiny", "main", new, contents(folder))
    fill_cache(tmp_path, "owner/tiny", "v1", old, contents(tmp_path / "old"))
    facts = run_python(OWN_REPO, "owner/tiny", old, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    np.testing.assert_array_equal(facts["main"], seed_model(TINY)[0].head.weight)
    np.testing.assert_array_equal(facts["tag"], seed_model(TINY, seed=1)[0].head.weight)
    assert facts["sha"] == facts["tag"]
    assert tuple(facts["labels"]) == TINY.labels
    for case, part in (("no tag", "owner/tiny at revision v9"), ("no repo", "owner/none")):
        kind, message = facts[case]
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
    fill_cache(tmp_path, "owner/tiny", "main", "1" * 40, contents(folder))
    code = """
import json, sys, zoo
facts = {"labels": zoo.load(sys.argv[1]).labels}
try:
    zoo.load("owner/none")
except ConnectionError as error:
    facts["none"] = str(error)
print(json.dumps(facts))
"""
    facts = run_python(code, "owner/tiny", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="0", HF_ENDPOINT=dying_endpoint)
    assert tuple(facts["labels"]) == TINY.labels
    assert "neither in the Hub's cache nor reachable" in facts["none"]


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
    snapshot = fill_cache(home, "topel/ConvNeXt-Tiny-AT", "main", "7" * 40, {"class_labels_indices.csv": labels})
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
facts = {"memory": memory("VmHWM") - before}
@eqx.filter_jit
def stages(clip, waves):
    def one(wave):
        log_mel = clip.model.frontend(wave)
        features, _ = clip.model.network.features(log_mel, clip.state)
        outputs = {"embedding": clip.embed(wave), "logits": clip(wave)}
        return outputs | {"log_mel": log_mel, "frames": features.transpose(2, 0, 1)}
    return jax.vmap(one)(waves)
batch = np.stack([wave, wave[::-1]])
of_batch = stages(clip, batch)
for name, array in of_batch.items():
    facts[name] = error(array[0], golden[name])
facts["labels"], facts["top"] = clip.labels, clip.top(wave, 5)
facts["batch"] = error(of_batch["logits"], [clip(each) for each in batch])
facts["times"] = clip.frame_times(31).tolist()
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def audioset(tmp_path_factory):
    """What a process tells of the published ConvNeXt, loaded offline from a cache with seeded weights."""
    if not SHARED.is_dir():
        pytest.skip("the folder ../shared with oracles is not here")
    home = audioset_cache(tmp_path_factory.mktemp("audioset"), seeded_checkpoint(None))
    golden = SHARED / "oracles" / "convnext_audioset" / "golden.npz"
    facts = run_python(AUDIOSET, golden, HF_HOME=str(home), HF_HUB_OFFLINE="1")
    return facts | {"file": next(home.rglob("model.safetensors")).stat().st_size}


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
    facts = run_python(UNREACHABLE, HF_HOME=str(audioset_cache(tmp_path, arrays)), HF_ENDPOINT="http://127.0.0.1:9")
    for key, leaf in facts.items():
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
    message = run_python(FAULT, HF_HOME=str(audioset_cache(tmp_path, arrays)), HF_HUB_OFFLINE="1")
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
