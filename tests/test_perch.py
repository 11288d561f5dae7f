"""Perch against its authors' Flax code, closed forms, files of TensorFlow, and bad input."""

import functools
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.perch import FRONTENDS, NETWORKS, flat, prepared, seeded, sounds
from golden.seeded import uniform
from safetensors.numpy import save_file

import zoo
from audax_eqx.frontends import PerchLogMel
from audax_eqx.layers import Prototypes
from zoo import families
from zoo._create import skeleton
from zoo._foreign import WeightFile
from zoo._labels import read_labels
from zoo._leaves import named_leaves
from zoo._load import fit
from zoo.families import perch

PARAMETERS = {"perch_v2": 10_695_512}  # of the authors' EfficientNet-B3
KEY = jax.random.key(0)
OPTIONS = {
    "released": {},
    "code": {"framing": "center", "floor": 1e-2},
    "small": {
        "bins": 40,
        "sample_rate": 16000,
        "hop_length": 200,
        "win_length": 500,
        "n_fft": 512,
        "f_min": 100.0,
        "f_max": 7000.0,
        "floor": 1e-4,
    },
}
SEVEN = {"depths": (1,) * 7, "widths": (4, 4, 4, 4, 4, 8, 8, 8)}


@functools.cache
def golden():
    with np.load(pathlib.Path(__file__).parent / "golden" / "perch.npz") as arrays:
        return dict(arrays)


def error(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


# The frontend ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sound", ["noise", "odd", "clicks"])
@pytest.mark.parametrize("name", FRONTENDS)
def test_the_log_mel_is_the_authors(name, sound):
    ours = PerchLogMel(**OPTIONS[name])(jnp.asarray(sounds()[sound], jnp.float32))
    assert error(ours[::5], golden()[f"{name}/{sound}"]) < 1e-5


def test_loudness_and_a_constant_are_not_heard():
    frontend, wave = PerchLogMel(), jnp.asarray(uniform("wave", (3200,)), jnp.float32)
    assert error(frontend(40.0 * wave + 7.0), frontend(wave)) < 1e-4
    assert error(PerchLogMel(peak=None)(jnp.asarray(prepared(np.asarray(wave)))), frontend(wave)) < 1e-6
    assert error(PerchLogMel(peak=None)(0.5 * wave), frontend(wave)) > 1e-2


@pytest.mark.parametrize("samples", [1, 319, 320, 321, 640, 1601])
def test_a_frame_begins_with_each_hop_and_silence_is_the_floor(samples):
    for frontend in (PerchLogMel(), PerchLogMel(framing="center"), PerchLogMel(win_length=100)):
        mel = frontend(jnp.zeros(samples))
        assert mel.shape == (-(-samples // 320), 128)
        np.testing.assert_allclose(mel, 0.1 * np.log(1e-5), rtol=1e-6)


def test_the_gradient_of_silence_is_finite():
    gradient = jax.grad(lambda wave: jnp.sum(PerchLogMel()(wave)))(jnp.zeros(1000))
    assert np.isfinite(gradient).all()


def test_the_centre_of_a_frame_is_where_a_click_is_loudest():
    for framing in ("same", "center"):
        frontend = PerchLogMel(framing=framing)
        centre = round(32000 * frontend.times(np.array([3.0]))[0])
        mel = frontend(jnp.zeros(3200).at[centre].set(1.0))
        assert int(jnp.argmax(jnp.mean(mel, axis=1))) == 3


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"win_length": 2000}, "a window that fits into n_fft.*win_length=2000"),
        ({"f_max": 20000.0}, "at most half the sample rate.*f_max=20000"),
        ({"bins": 0}, "at least 1 bin"),
        ({"floor": 0.0}, r"must be > 0, got floor=0\.0"),
        ({"peak": -1.0}, r"peak=-1\.0"),
    ],
)
def test_a_frontend_that_makes_no_sense_is_refused(options, fault):
    with pytest.raises(ValueError, match=fault):
        PerchLogMel(**options)


def test_an_empty_wave_is_refused():
    with pytest.raises(ValueError, match="at least 1 sample, got 0"):
        PerchLogMel()(jnp.zeros(0))


# The network, by the names of Flax ------------------------------------------------------------------------------------


def tree(name, head):
    """A network's arrays by Flax's paths, seeded as golden/perch.py seeds them."""
    stem, stages, _, _ = NETWORKS[name]
    arrays = {}

    def add(path, **shapes):
        for leaf, shape in shapes.items():
            kind = "batch_stats" if leaf in ("mean", "var") else "params"
            arrays[f"{kind}/embedding_model/backbone/{path}/{leaf}"] = seeded(f"{path}/{leaf}", shape)

    def conv_norm(conv, norm, shape):
        add(conv, kernel=shape)
        add(norm, **dict.fromkeys(("scale", "bias", "mean", "var"), shape[-1:]))

    conv_norm("Stem_0/Conv_0", "Stem_0/BatchNorm_0", (3, 3, 1, stem))
    inputs, block = stem, 0
    for count, width, kernel, _, expansion in stages:
        for _ in range(count):
            path, inner = f"MBConv_{block}", expansion * inputs
            if expansion > 1:
                conv_norm(f"{path}/ExpandConv", f"{path}/ExpandBatchNorm", (1, 1, inputs, inner))
            conv_norm(f"{path}/DepthwiseConv", f"{path}/DepthwiseBatchNorm", (kernel, kernel, 1, inner))
            for part, shape in (("Reduce", (inner, inputs // 4)), ("Expand", (inputs // 4, inner))):
                add(f"{path}/SqueezeAndExcitation_0/{part}", kernel=shape, bias=shape[1:])
            conv_norm(f"{path}/ProjectConv", f"{path}/ProjectBatchNorm", (1, 1, inner, width))
            inputs, block = width, block + 1
    conv_norm("Head_0/Conv_0", "Head_0/BatchNorm_0", (1, 1, inputs, 4 * inputs))
    heads = {
        "prototypes": {"prototypes": (7, 4 * inputs, 3), "protop_kernel": (7, 3), "bias": (7,)},
        "dense": {"Dense_0/kernel": (4 * inputs, 5), "Dense_0/bias": (5,)},
        "none": {},
    }
    return arrays | {f"params/heads_label/{path}": seeded(path, shape) for path, shape in heads[head].items()}


def converted(tmp_path, arrays, **options):
    arrays = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    save_file(arrays, tmp_path / "perch.safetensors")
    return zoo.convert(tmp_path / "perch.safetensors", tmp_path / "made", window=0.2, **options)


@eqx.filter_jit
def outputs(model, state, x):
    """The feature map, the embedding and the logits."""
    maps, _ = model.network.features(x, state)
    return maps, model.network.pool_map(maps), model.classify(x, state)[0]


@pytest.mark.parametrize("head", ["prototypes", "dense"])
@pytest.mark.parametrize("name", NETWORKS)
def test_maps_embeddings_and_logits_are_the_authors(tmp_path, name, head):
    _, _, activation, size = NETWORKS[name]
    arrays = tree(name, head)
    if head == "dense":
        arrays = {key.replace("/", "."): array for key, array in arrays.items()}
    clip = zoo.load(converted(tmp_path, arrays, network={"activation": activation}))
    x = jnp.asarray(uniform("x", (1, *size, 1))[0, :, :, 0], jnp.float32)
    maps, embedding, logits = outputs(clip.model, clip.state, x)
    assert error(maps, golden()[f"{name}/map"]) < 1e-5
    assert error(embedding, golden()[f"{name}/map"].mean(axis=(0, 1))) < 1e-5
    assert error(logits, golden()[f"{name}/{head}"]) < 1e-5
    assert (clip.entry.license, clip.entry.source) == (None, None)  # nobody knows who trained it


def test_a_network_without_a_head_is_an_encoder(tmp_path):
    clip = zoo.load(converted(tmp_path, tree("released", "none")))
    assert clip.entry.task == "embedding" and clip(np.ones(6400, np.float32)).shape == (80,)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda arrays: arrays | {"params/heads_two/Dense_0/bias": np.zeros(5, np.float32)}, "2 heads, heads_label, h"),
        (lambda arrays: arrays | {"params/Stem_0/more": np.zeros(5, np.float32)}, "Stem_0/more matches 0 rules"),
        (lambda arrays: {k: v for k, v in arrays.items() if "Head_0/Conv" not in k}, "network.end.weight is missing"),
        (lambda arrays: {k: v for k, v in arrays.items() if "MBConv_3/Proj" not in k}, "no 'MBConv_3/ProjectConv/kern"),
        (
            lambda arrays: {k: v for k, v in arrays.items() if "MBConv_12/" not in k and "MBConv_13/" not in k},
            "6 stages that can be told apart",
        ),
    ],
)
def test_a_file_that_is_not_whole_is_told(tmp_path, change, fault):
    with pytest.raises(ValueError, match=fault):
        converted(tmp_path, change(tree("code", "dense")))


def test_recordings_and_their_steps_are_scored(tmp_path):
    clip = zoo.load(converted(tmp_path, tree("released", "prototypes"), labels=tuple("abcdefg")))
    wave = np.asarray(uniform("wave", (16000,)), np.float32)  # two windows and a half
    (whole,) = zoo.tag(clip, [(wave, 32000)])
    (steps,) = zoo.tag(clip, [(wave, 32000)], each="frame")
    assert whole.values.shape == (1, 7) and steps.values.shape[1] == 7
    np.testing.assert_allclose(steps.values.sum(axis=1), 1.0, rtol=1e-5)
    logits = clip(wave[:6400])
    assert clip.top(wave[:6400], k=7)[0][0] == "abcdefg"[int(np.argmax(logits))]
    thawed = clip.thaw(classes=3, key=KEY)
    zoo.save(tmp_path / "thawed", *thawed, thawed.entry)
    assert isinstance(thawed[0].head, Prototypes) and zoo.load(tmp_path / "thawed").model.head.outputs == 3


# The released files ---------------------------------------------------------------------------------------------------


def released_shapes():
    """The SavedModel's arrays by their keys, from the shapes that the entry asks for and the names' order."""
    leaves = {name: leaf.shape for name, leaf in named_leaves(*skeleton(perch.ENTRIES[0])).items()}
    linear = (".expand.weight", ".reduce.weight", ".project.weight", ".end.weight")
    places = [(stage, block) for stage, depth in enumerate(perch.DEPTHS) for block in range(depth)]
    ours = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    shapes = {}
    for index, path in enumerate(perch._released()):
        *parts, leaf = path.split("/")
        if parts == ["head"]:
            name = {"prototypes": "head.weight", "protop_kernel": "head.scale", "bias": "head.bias"}[leaf]
        else:
            layer = parts[-1].removesuffix("Conv").removesuffix("BatchNorm").lower()
            norm = "_norm" if "BatchNorm" in parts[-1] else ""
            if parts[0].startswith("MBConv"):
                stage, block = places[int(parts[0].removeprefix("MBConv_"))]
                excite = "excite." if len(parts) == 3 else ""
                name = f"network.stages.{stage}.{block}.{excite}{layer}{norm}.{ours.get(leaf, leaf)}"
            else:
                name = f"network.{ {'Stem_0': 'stem', 'Head_0': 'end'}[parts[0]] }{norm}.{ours.get(leaf, leaf)}"
                name = name.replace("_0", "")
        shape = leaves.pop(name)
        if name.endswith(linear):
            shape = shape[::-1] if "excite" in name else (1, 1, *shape[::-1])
        if name == "head.weight":
            shape = (shape[0], shape[2], shape[1])
        shapes[f"_tf_var_leaves/{index}/.ATTRIBUTES/VARIABLE_VALUE"] = shape
    assert not leaves
    return shapes


def test_the_released_model_has_the_published_number_of_arrays_and_parameters():
    model, state = skeleton(perch.ENTRIES[0])
    sizes = [np.prod(leaf.shape, dtype=int) for leaf in named_leaves(model, state).values()]
    assert (len(sizes), sum(sizes)) == (497, 101_757_263)
    assert model.network.width == 1536
    parameters = jax.tree.leaves(eqx.filter(model.network, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)))
    assert sum(leaf.size for leaf in parameters) == PARAMETERS["perch_v2"]
    shape = eqx.filter_eval_shape(eqx.nn.inference_mode(model), jax.ShapeDtypeStruct((160_000,), jnp.float32), state)[
        0
    ].shape
    assert shape == (14795,)


def test_the_released_names_are_in_the_savedmodels_order():
    names = perch._released()
    assert len(names) == 497
    for index, name in {  # of github.com/Benedict-Carling/perch2-int8, research/src/perch2_leaf_mapping.json
        0: "Head_0/BatchNorm_0/mean",
        10: "MBConv_10/DepthwiseBatchNorm/mean",
        155: "Stem_0/BatchNorm_0/var",
        158: "Head_0/Conv_0/kernel",
        168: "MBConv_0/SqueezeAndExcitation_0/Reduce/kernel",
        184: "MBConv_10/ExpandConv/kernel",
        302: "MBConv_19/ProjectBatchNorm/bias",
        493: "Stem_0/Conv_0/kernel",
        496: "head/prototypes",
    }.items():
        assert names[index] == name


def test_the_released_file_is_recognised_and_fits(tmp_path):
    shapes = released_shapes()
    source = WeightFile(tmp_path / "variables" / "variables.index", "tensorflow", {}, shapes)
    recognised = perch.recognise(source)
    assert recognised.entry == perch.ENTRIES[0]
    for names in (recognised.names, perch.NAMES["perch"](shapes | {"save_counter/.ATTRIBUTES/VARIABLE_VALUE": ()})):
        fit(recognised.entry, {name: shapes[key] for name, key in names.items()}, "file", recognised.rules)
    (tmp_path / "assets").mkdir()
    labels = ["inat2024_fsd50k", *(f"species {index}" for index in range(14795))]
    (tmp_path / "assets" / "labels.csv").write_text("\n".join(labels) + "\n")
    assert perch.recognise(source).entry.labels == tuple(labels[1:])


def test_labels_may_stand_one_a_row(tmp_path):
    (tmp_path / "labels.csv").write_text('inat2024_fsd50k\nRana temporaria\n"Bell, large"\n')
    assert read_labels(tmp_path / "labels.csv") == ("Rana temporaria", "Bell, large")
    (tmp_path / "labels.csv").write_text("inat2024_fsd50k\n")
    with pytest.raises(ValueError, match="is not a table"):
        read_labels(tmp_path / "labels.csv")


def test_a_flax_train_state_of_perch_is_not_taken_for_another(tmp_path):
    shapes = {key.split("/", 1)[1]: array.shape for key, array in tree("released", "dense").items()}
    source = WeightFile(tmp_path, "flax", {}, shapes)
    (found,) = filter(None, (family.recognise(source) for family in families.having("recognise")))
    assert found.entry.network["first_residual"] is False and flat({"a": {"b": 1}}) == {"a/b": 1}
