"""BEATs against its authors' numbers, closed forms, and padding that has no part in a result."""

import functools
import pathlib
import warnings

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
from audax_eqx.frontends import KaldiFbank
from audax_eqx.models import Classifier, Encoder
from audax_eqx.networks import BEATs, Wav2Vec2
from zoo._foreign import WeightFile
from zoo._labels import AUDIOSET
from zoo.families import beats

PARAMETERS = {"beats_base": 90_311_792}  # of the authors' model, its table of distances counted once
KEY = jax.random.key(0)
SMALL = {"patch": 4, "embedding": 12, "kernel": 8, "groups": 2, "buckets": 8, "max_distance": 20}


@functools.cache
def seeded(make=Encoder, depth=2, **options):
    frontend = KaldiFbank(8000, 10, window="povey", mean=15.0, scale=13.0, gain=2.0**15)

    def build(key):
        more = {"classes": 3} if make is Classifier else {}
        return make(frontend, BEATs(8, depth, 2, **SMALL | options, key=key), **more, key=key)

    model, state = fill(build)
    return eqx.nn.inference_mode(model), state


@eqx.filter_jit
def maps(network, x):
    """The network's layers and feature map."""
    state = eqx.nn.State(network)
    return network.layers(x, state)[0], network.features(x, state)[0]


@eqx.filter_jit
def outputs(model, state, wave, length=None):
    """Everything that a model makes of a wave: features, layers, feature map, embedding and output."""
    x, known = model.listen(wave, length=length), model.valid(wave.size, length)
    layers, _ = model.network.layers(x, state, **known)
    last, _ = model.network.features(x, state, **known)
    return x, layers, last, model.network.pool_map(last, **known), model(wave, state, length=length)[0]


# The network ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_numbers_of_parameters(name):
    leaves = jax.tree.leaves(eqx.filter_eval_shape(getattr(networks, name), key=KEY))
    assert sum(leaf.size for leaf in leaves if hasattr(leaf, "size")) == PARAMETERS[name]


def test_patches_are_in_a_row_time_after_time():
    network = seeded(depth=0)[0].network
    x = noise(11, 10)
    _, y = maps(network, x)
    assert y.shape == (2, 2, 8)  # 3 frames and 2 bins are left over
    patches = np.stack([x[t : t + 4, f : f + 4].ravel() for t in (0, 4) for f in (0, 4)])
    tokens = patches @ network.patchify.weight.reshape(16, 12)
    assert error(y.reshape(4, 8), maps(network.encoder, tokens)[1][:, 0]) < 1e-6
    np.testing.assert_allclose(network.positions(2), [1.5, 5.5])


@pytest.mark.parametrize("norm_first", [False, True])
def test_what_goes_past_the_branches_of_a_deep_network_is_scaled(norm_first):
    network = seeded(depth=3, norm_first=norm_first, deep_norm=not norm_first)[0].network
    silent = eqx.tree_at(
        lambda network: [
            leaf
            for block in network.blocks
            for linear in (block.attention.output, block.contract)
            for leaf in (linear.weight, linear.bias)
        ],
        network,
        replace_fn=jnp.zeros_like,
    )
    (expected, second, *_), _ = maps(silent, noise(8, 10))
    if not norm_first:
        block = silent.blocks[0]
        for norm in (block.attention_norm, block.mlp_norm):
            expected = norm(6**0.25 * expected)
    assert error(second, expected) < 1e-6


def test_gates_are_made_of_the_query():
    def made(gate):
        return fill(functools.partial(Wav2Vec2, 8, 1, 2, bins=8, kernel=8, groups=2, buckets=8, gate=gate))[0]

    def differ(one, other):
        return error(*(maps(network, x)[1] for network in (one, other))) > 1e-5

    x = noise(6, 8)
    of_input, of_query, ungated = map(made, ("input", "query", None))
    assert differ(of_query, of_input) and differ(ungated, of_input) and differ(ungated, of_query)
    at = lambda network: [network.blocks[0].attention.query.weight, network.blocks[0].attention.query.bias]  # noqa: E731
    same = [jnp.eye(8), jnp.zeros(8)]
    assert not differ(*(eqx.tree_at(at, network, same) for network in (of_input, of_query)))


@pytest.mark.parametrize(
    "options, part",
    [
        ({"patch": 0}, "sizes of at least 1, got patch=0"),
        ({"embedding": 0}, "sizes of at least 1"),
        ({"norm_first": True}, "deep_norm only with norm_first=False"),
        ({"groups": 3}, "groups that divide its 8 channels"),
        ({"buckets": 3}, "4 <= buckets"),
    ],
)
def test_sizes_that_do_not_go_together_are_told(options, part):
    with pytest.raises(ValueError, match=part):
        BEATs(8, 1, 2, **SMALL | options, key=KEY)
    with pytest.raises(ValueError, match="project=False with as many bins as its width"):
        Wav2Vec2(8, 1, 2, bins=4, project=False, key=KEY)


# Padding --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make, options", [(Encoder, {"patch_bias": True}), (Classifier, {"embedding": 8})])
@pytest.mark.parametrize("samples", [200, 500, 3333])  # a frame, less than a patch; 4 frames, a patch; 40
def test_padding_has_no_part_in_a_result(make, options, samples):
    model, state = seeded(make, **options)
    assert model.takes_length
    whole = noise(6000, seed=1) * jnp.where(jnp.arange(6000) < samples, 0.1, 100.0)  # loud in the padding
    alone, padded = outputs(model, state, whole[:samples]), outputs(model, state, whole, jnp.asarray(samples))
    for ours, theirs in zip(*map(jax.tree.leaves, (padded, alone)), strict=True):
        assert error(ours[: len(theirs)], theirs) < 1e-5
    assert error(outputs(model, state, whole, jnp.asarray(6000))[4], alone[4]) > 1e-3


def test_steps_are_as_many_as_whole_patches():
    model, state = seeded()
    network = model.network
    for frames in (1, 3, 4, 7, 8, 33):
        steps = eqx.filter_eval_shape(network.features, jnp.zeros((frames, 10)), state)[0].shape[0]
        assert network.steps(frames) == steps == int(eqx.filter_jit(network.steps)(jnp.asarray(frames)))


def test_a_classifiers_logits_are_the_mean_of_its_tokens_logits():
    model, state = seeded(Classifier, embedding=8)
    _, _, last, _, logits = outputs(model, state, noise(3000))
    assert error(logits, np.asarray(last).reshape(-1, 8).mean(axis=0) @ model.head.weight.T + model.head.bias) < 1e-5
    assert error(logits, np.asarray(model.head(last)).mean(axis=(0, 1))) < 1e-5


# Files ----------------------------------------------------------------------------------------------------------------

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "beats.npz")  # avex 1.4.0, files by torch 2.13
CODES = "/m/09x0r", "/t/dd00003", "/m/0bt9lr"  # the labels of the fine-tuned file


def recording(name):
    """The waves of the golden arrays: noise with a stretch of near silence."""
    samples, seed = {"second": (16000, 0), "odd": (7001, 1)}[name]
    wave = np.random.default_rng(seed).standard_normal(samples)
    wave[samples // 3 : samples // 2] *= 1e-4
    return (0.1 * wave).astype(np.float32)


@pytest.fixture
def file(tmp_path):
    """Writes one of the golden files and gives its path."""

    def write(name):
        path = tmp_path / f"{name}.pt"
        path.write_bytes(GOLDEN[f"{name}/file"].tobytes())
        return path

    return write


def is_the_authors(clip, name):
    """That a model computes what the authors' code does."""
    for sound in ("second", "odd"):
        golden, wave = f"{name}/{sound}/", jnp.asarray(recording(sound))
        x, layers, last, embedding, output = outputs(clip.model, clip.state, wave)
        assert error(x[::5], GOLDEN[f"fbank/{sound}"]) < 1e-5
        width = clip.model.network.width
        assert error(layers[0].reshape(-1, width), GOLDEN[golden + "first"]) < 1e-5
        assert error(last.reshape(-1, width), GOLDEN[golden + "tokens"]) < 2e-5
        assert error(embedding, GOLDEN[golden + "tokens"].mean(axis=0)) < 2e-5
        if clip.entry.classes:
            assert error(output, GOLDEN[golden + "logits"]) < 2e-5
        else:
            np.testing.assert_array_equal(output, embedding)


@pytest.mark.parametrize("name", ["tuned", "first", "plain"])
def test_a_file_of_the_authors_converts_to_their_numbers(file, tmp_path, name):
    with warnings.catch_warnings(record=True) as caught:  # the Hub is asked for the names of the codes, in vain
        clip = zoo.load(zoo.convert(file(name), tmp_path / "made"))
    assert len(caught) == (name == "tuned")
    is_the_authors(clip, name)
    kind = ("multilabel", 3, CODES) if name == "tuned" else ("embedding", 0, ())
    assert (clip.entry.task, clip.entry.classes, clip.labels) == kind
    assert (clip.entry.license, clip.entry.paper, clip.entry.metrics) == (None, "https://arxiv.org/abs/2212.09058", ())


@pytest.mark.parametrize("name", ["beats", "beats_finetuned"])
def test_the_files_of_the_oracles_convert_to_their_numbers(shared, tmp_path, name):
    clip = zoo.load(zoo.convert(shared / "oracles" / name / "BEATs_small.pt", tmp_path / "made"))
    is_the_authors(clip, name)
    letters = "zyxwvutsr" if name == "beats_finetuned" else ""
    assert clip.labels == tuple(f"/m/{letter}{index}" for index, letter in enumerate(letters))


def state_dict(name, prefix="", old=False):
    """The arrays of a golden file, with the names that torch had for the parts of a weight norm before 2.0."""
    arrays = zoo.arrays(name)
    keys = {key: prefix + key.removeprefix("model.") for key in arrays}
    if old:
        for part, letter in (("parametrizations.weight.original0", "g"), ("parametrizations.weight.original1", "v")):
            keys = {key: new.replace(part, f"weight_{letter}") for key, new in keys.items()}
    return {new: arrays[key] for key, new in keys.items()}


def test_arrays_without_settings_are_taken_for_a_published_model(file, tmp_path):
    settings = {"deep_norm": True, "max_distance": 30}  # not of the file, but the owner says so
    for prefix, old in (("", False), ("backbone.", True)):
        save_file(state_dict(file("tuned"), prefix, old), tmp_path / "x.safetensors")
        folder = zoo.convert(tmp_path / "x.safetensors", tmp_path / f"made{old}", network=settings)
        clip = zoo.load(folder)
        is_the_authors(clip, "tuned")
        assert clip.labels == ("class 0", "class 1", "class 2")
    plain = zoo.info(zoo.convert(tmp_path / "x.safetensors", tmp_path / "plain")).network
    assert (plain["deep_norm"], plain["max_distance"], plain["norm_first"]) == (True, 800, False)


def source(arrays, cfg=None, labels=None):
    settings = {"cfg": cfg or {}} | ({} if labels is None else {"label_dict": labels})
    shapes = {key: array.shape for key, array in arrays.items()}
    return WeightFile(pathlib.Path("x.pt"), "torch", arrays, shapes, settings)


@pytest.mark.parametrize(
    "cfg, part",
    [
        ({"encoder_layers": 12}, r"has the encoder_layers 12 in its cfg, and arrays of 2: fetch"),
        ({"encoder_attention_heads": "x"}, r"the encoder_attention_heads 'x' in its cfg, and arrays of 3"),
        ({"activation_fn": "glu"}, r"the activation_fn 'glu': the zoo has 'gelu' or"),
        ({"activation_fn": ["gelu"]}, r"the activation_fn \['gelu'\]"),
        ({"deep_norm": "yes"}, r"the deep_norm 'yes': the zoo has False or True"),
        ({"layer_norm_first": None}, r"the layer_norm_first None"),
    ],
)
def test_settings_that_are_not_the_files_are_told(file, cfg, part):
    with pytest.raises(ValueError, match=rf"^x\.pt has {part}|{part}"):
        beats.recognise(source(state_dict(file("tuned")), cfg))


@pytest.mark.parametrize("labels", [["a", "b", "c"], {0: "a", 1: "b"}, {0: "a", 1: "b", 3: "c"}, {0: 0, 1: 1, 2: 2}])
def test_labels_that_are_not_one_a_class_are_told(file, labels):
    with pytest.raises(ValueError, match=r"^x\.pt needs a label_dict of texts by the numbers 0 to 2, and has"):
        beats.recognise(source(state_dict(file("tuned")), labels=labels))


def test_what_is_no_beats_is_told(file):
    arrays = state_dict(file("first"))
    assert beats.recognise(source({key: array for key, array in arrays.items() if "patch" not in key})) is None
    with pytest.raises(ValueError, match=r"^x\.pt is a tokenizer of BEATs"):
        beats.recognise(source(arrays | {"quantize.embedding.weight": np.zeros((8, 4), np.float32)}))
    last = "encoder.layers.1.self_attn.relative_attention_bias.weight"
    with pytest.raises(ValueError, match=r"^x\.pt has several biases by distance"):
        beats.recognise(source(arrays | {last: arrays[last] + 1}))
    del arrays["encoder.layers.0.fc1.weight"]
    with pytest.raises(KeyError, match="fc1"):
        beats.recognise(source(arrays))


# Names ----------------------------------------------------------------------------------------------------------------


def published_shapes(classes):
    """The arrays of the authors' file, as its model's code names them."""
    shapes = {"patch_embedding.weight": (512, 1, 16, 16), "encoder.pos_conv.0.bias": (768,)}
    shapes |= {"encoder.pos_conv.0.weight_g": (1, 1, 128), "encoder.pos_conv.0.weight_v": (768, 48, 128)}
    linear = {"post_extract_proj": (768, 512)} | ({"predictor": (classes, 768)} if classes else {})
    norms = {"layer_norm": 512, "encoder.layer_norm": 768}
    for layer in range(12):
        path = f"encoder.layers.{layer}."
        linear |= {f"{path}self_attn.{part}_proj": (768, 768) for part in "qkv"} | {f"{path}fc1": (3072, 768)}
        linear |= {f"{path}self_attn.out_proj": (768, 768), f"{path}fc2": (768, 3072)}
        linear |= {f"{path}self_attn.grep_linear": (8, 64)}
        shapes |= {f"{path}self_attn.grep_a": (1, 12, 1, 1)}
        shapes |= {f"{path}self_attn.relative_attention_bias.weight": (320, 12)}
        norms |= {f"{path}self_attn_layer_norm": 768, f"{path}final_layer_norm": 768}
    for name, shape in linear.items() | {(name, (size,)) for name, size in norms.items()}:
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {f"model.{name}": shape for name, shape in shapes.items()}


@pytest.fixture
def hub(file, tmp_path, monkeypatch):
    """A cache of the Hub with a small fine-tuned file under the name of a published one, and AudioSet's labels."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    network = zoo.info(zoo.convert(file("tuned"), tmp_path / "made", labels=("a", "b", "c"))).network
    entry = zoo.info("beats_iter3_plus_audioset").replace(network=network, classes=3)
    monkeypatch.setattr(beats, "ENTRIES", (beats.ENTRIES[0], entry))
    rows = ["index,mid,display_name\n", *(f"{index},{code},{code[-2:]}\n" for index, code in enumerate(CODES[::-1]))]

    def put(repo, name, content):
        folder = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("1" * 40)
        (folder / "snapshots" / ("1" * 40)).mkdir(parents=True)
        (folder / "snapshots" / ("1" * 40) / name).write_bytes(content)

    put(entry.checkpoint.repo, entry.checkpoint.file, GOLDEN["tuned/file"].tobytes())
    return lambda: put(AUDIOSET["label_repo"], AUDIOSET["label_file"], "".join(rows).encode())


def test_a_published_model_has_the_labels_of_its_file_by_audiosets_names(hub, file, tmp_path):
    with pytest.warns(UserWarning, match="has AudioSet's codes as labels"):
        assert zoo.load("beats_iter3_plus_audioset").labels == CODES
    hub()
    clip = zoo.load("beats_iter3_plus_audioset")
    is_the_authors(clip, "tuned")
    assert clip.labels == ("0r", "03", "lr")
    assert zoo.info(zoo.convert(file("tuned"), tmp_path / "again")).labels == ("0r", "03", "lr")
