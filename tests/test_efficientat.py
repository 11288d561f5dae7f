"""EfficientAT against its publisher's numbers, its tables, its published sizes, its frontend and its files."""

import functools
import pathlib
import re
import shutil

import equinox as eqx
import huggingface_hub.constants
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.seeded import fill
from test_cnn import KEY, error, noise

import zoo
from audax_eqx import networks
from audax_eqx.features import melscale_fbanks
from audax_eqx.frontends import LogMel, efficientat_log_mel
from audax_eqx.layers import BatchNorm
from audax_eqx.models import Classifier
from audax_eqx.networks import DyMN, MobileNetV3
from audax_eqx.networks.dymn import DynamicKernel, DynamicReLU
from audax_eqx.networks.mobilenet import InvertedResidual
from audax_eqx.networks.mobilenet_v3 import INNER, STAGES, WIDTHS
from zoo._arrays import open_file, shapes_of
from zoo._foreign import WeightFile
from zoo.families import efficientat

PARAMETERS = {  # of the publisher's modules with their heads of 527 classes
    "mn04": 983_599,
    "mn05": 1_431_239,
    "mn10": 4_876_831,
    "mn20": 17_909_287,
    "mn30": 39_086_367,
    "mn40": 68_427_303,
    "dymn04": 1_961_239,
    "dymn10": 10_548_479,
    "dymn20": 39_966_143,
}
ORACLES = {"efficientat_mn": "mn_small_as.pt", "efficientat_dymn": "dymn_small_as.pt"}
SMALL = ((4,) * 7, (4,) * 3 + (8,) * 12)


@functools.cache
def small(make, *arguments, **options):
    """A small network in inference mode, seeded, and its State."""
    network, state = fill(functools.partial(make, *SMALL, *arguments, **options))
    return eqx.nn.inference_mode(network), state


@eqx.filter_jit
def outputs(clip, wave):
    """The features, the embedding and the logits of a wave, in one program."""
    x = clip.model.listen(wave)
    embedding, _ = clip.model.network(x, clip.state)
    return x, embedding, clip.model.logits(embedding)


# The publisher's numbers ----------------------------------------------------------------------------------------------


@pytest.fixture
def labels(shared, tmp_path, monkeypatch):
    """The Hub's cache with AudioSet's labels and nothing else."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--topel--ConvNeXt-Tiny-AT"
    (folder / "snapshots" / ("5" * 40)).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("5" * 40)
    file = folder / "snapshots" / ("5" * 40) / "class_labels_indices.csv"
    shutil.copy(shared / "oracles" / "audioset_class_labels_indices.csv", file)


@pytest.mark.parametrize(("name", "file"), ORACLES.items())
def test_a_converted_file_agrees_with_its_publishers_code(name, file, shared, labels, tmp_path):
    clip = zoo.load(zoo.convert(shared / "oracles" / name / file, tmp_path / "made"))
    with np.load(shared / "oracles" / name / "golden.npz") as golden:
        for length in ("short", "full"):
            x, embedding, logits = outputs(clip, jnp.asarray(golden[f"wave_{length}"].astype(np.float32)))
            assert error(x[::5], golden[f"mel_{length}"]) < 1e-5
            assert error(embedding, golden[f"embedding_{length}"]) < 1e-4
            assert error(logits, golden[f"logits_{length}"]) < 1e-4
    assert (clip.labels[0], len(clip.labels), clip.entry.task) == ("Speech", 527, "multilabel")
    assert (clip.entry.license, clip.entry.window, clip.sample_rate) == ("MIT", 10.0, 32000)


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_variants_have_the_published_number_of_parameters(name, parameters):
    def build(key):
        network = getattr(networks, name)(key=key)
        hidden = network.width * 4 // 3
        hidden = (hidden + 4) // 8 * 8  # the publisher's 1280 for 960
        return Classifier(LogMel(32000), network, 527, projection=hidden, activation="hardswish", key=key)

    model, _ = eqx.filter_eval_shape(eqx.nn.make_with_state(build), key=KEY)
    assert sum(leaf.size for leaf in jax.tree.leaves(model) if hasattr(leaf, "shape")) == parameters


# The frontend ---------------------------------------------------------------------------------------------------------


def reference(wave):
    """The frontend's definition, frame by frame, in float64."""
    x = wave[1:].astype(np.float64) - 0.97 * wave[:-1]
    x = np.pad(x, 512, mode="reflect")
    window = np.pad(np.hanning(800), 112)
    power = [np.abs(np.fft.rfft(window * x[start : start + 1024])) ** 2 for start in range(0, len(x) - 1023, 320)]
    mel = np.array(power) @ melscale_fbanks(513, 0.0, 15000.0, 128, 32000, mel_scale="kaldi").astype(np.float64)
    return (np.log(mel + 1e-5) + 4.5) / 5


def test_the_frontend_is_its_definition():
    wave = 0.3 * np.asarray(noise(5000))
    click = np.zeros(5000, np.float32)
    click[1777], click[0] = 0.9, -0.4
    frontend = jax.jit(efficientat_log_mel(32000))
    for each in (wave, click, np.zeros(5000, np.float32)):
        assert error(frontend(jnp.asarray(each)), reference(each)) < 1e-5


def test_pre_emphasis_leaves_the_first_sample_out():
    frontend = LogMel(8000, bins=8, n_fft=64, hop_length=32, pre_emphasis=0.97)
    plain = LogMel(8000, bins=8, n_fft=64, hop_length=32)
    wave = noise(200)
    np.testing.assert_array_equal(frontend(wave), plain(wave[1:] - np.float32(0.97) * wave[:-1]))
    assert frontend.min_samples == plain.min_samples + 1
    np.testing.assert_allclose(frontend.times(np.array([0.0, 2.0])), [1 / 8000, 65 / 8000])
    with pytest.raises(ValueError, match="takes at least 34 samples"):
        frontend(noise(33))


def test_epsilon_mean_and_scale_are_those_of_silence():
    frontend = efficientat_log_mel(32000, epsilon=0.5, mean=-2.0, scale=4.0)
    np.testing.assert_allclose(frontend(jnp.zeros(4000)), (np.log(0.5) + 2) / 4, rtol=1e-6)


def test_kaldis_filters_are_straight_in_mel_and_end_where_they_should():
    banks = melscale_fbanks(513, 0.0, 15000.0, 128, 32000, mel_scale="kaldi")
    mel = 1127 * np.log1p(np.arange(513) * 31.25 / 700)
    centre = np.arange(1, 129) * 1127 * np.log1p(15000 / 700) / 129
    np.testing.assert_allclose(banks, np.maximum(0, 1 - np.abs(mel[:, None] - centre) / centre[0]), atol=3e-5)
    assert banks[480:].max() < 2e-5 < banks[479].max()  # 15 kHz is the 480th
    assert not banks.flags.writeable


@pytest.mark.parametrize("options", [{"norm": "slaney"}, {"dtype": "float64"}, {"n_fft": 1025}])
def test_kaldis_filters_have_no_other_options(options):
    with pytest.raises(ValueError, match="Kaldi's mel filters have no norm, float32 edges and an even FFT, got"):
        melscale_fbanks(513, 0.0, 4000.0, 10, 16000, mel_scale="kaldi", **options)


@pytest.mark.parametrize("samples", [6400, 6401, 9000])
def test_no_more_frames_than_the_longest_clip_has(samples):
    frontend, plain = (efficientat_log_mel(32000, max_frames=frames) for frames in (20, None))
    assert (frontend.max_samples, plain.max_samples) == (6400, None)
    wave = noise(samples)
    np.testing.assert_array_equal(frontend(wave), plain(wave[:6400]))
    assert frontend(wave).shape == (20, 128) == (plain(noise(6401)).shape[0] - 1, 128)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": -1.0}, "adds `epsilon`"),
        ({"epsilon": float("nan")}, "adds `epsilon`"),
        ({"scale": 0.0}, "divides by `scale`"),
        ({"mean": float("inf")}, "subtracts `mean`"),
        ({"pre_emphasis": float("nan")}, "pre_emphasis is a finite factor"),
        ({"max_frames": 0}, "takes max_frames >= 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LogMel(8000, **options)


# The networks ---------------------------------------------------------------------------------------------------------


def test_the_table_is_the_papers():
    network = eqx.filter_eval_shape(MobileNetV3, key=KEY)
    blocks = network.blocks
    assert [index for index, block in enumerate(blocks) if block.depthwise.stride == (2, 2)] == [1, 3, 6, 12]
    assert [block.depthwise.weight.shape[0] for block in blocks] == [3] * 3 + [5] * 3 + [3] * 6 + [5] * 3
    assert [index for index, block in enumerate(blocks) if block.excite is not None] == [3, 4, 5, 10, 11, 12, 13, 14]
    assert [block.excite.reduce.outputs for block in blocks if block.excite] == [24, 32, 32, 120, 168, 168, 240, 240]
    assert [block.activation for block in blocks] == ["relu"] * 6 + ["hardswish"] * 9
    assert [index for index, block in enumerate(blocks) if block.residual] == [0, 2, 4, 5, 7, 8, 9, 11, 13, 14]
    assert [index for index, block in enumerate(blocks) if block.expand is None] == [0]
    assert network.width == 960
    leaves = jax.tree.leaves(network, is_leaf=lambda each: isinstance(each, BatchNorm))
    assert {(norm.eps, norm.momentum) for norm in leaves if isinstance(norm, BatchNorm)} == {(1e-3, 0.01)}


@pytest.mark.parametrize("make", [MobileNetV3, functools.partial(DyMN, contexts=(4,) * 15)])
@pytest.mark.parametrize(("widths", "inner"), [(WIDTHS[1:], INNER), (WIDTHS, INNER[1:]), ((0,) * 7, INNER)])
def test_a_table_has_seven_widths_and_fifteen_blocks(make, widths, inner):
    with pytest.raises(ValueError, match=r"takes 7 widths and a number for each of 15 blocks, all at least 1, got"):
        eqx.filter_eval_shape(make, widths, inner, key=KEY)


@pytest.mark.parametrize("options", [{"kernels": 0}, {"pieces": 0}, {"temperature": 0.0}])
def test_a_dymn_has_kernels_and_pieces_and_a_temperature(options):
    with pytest.raises(ValueError, match="DyMN takes kernels and pieces of at least 1 and a temperature > 0, got"):
        eqx.filter_eval_shape(DyMN, *SMALL, (4,) * 15, **options, key=KEY)
    with pytest.raises(ValueError, match="`squeeze`, which must be at least 1, got 0"):
        eqx.filter_eval_shape(MobileNetV3, squeeze=0, key=KEY)


def test_a_kernel_is_the_mean_that_the_softmax_decides():
    kernel = DynamicKernel((3, 2), 5, 4, 2.0, 1.0, key=KEY)
    context = noise(5)
    logits = np.asarray(kernel.choose(context), np.float64) / 2
    share = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(kernel(context), np.tensordot(share, kernel.weight, 1), rtol=1e-5)


def test_a_dynamic_relu_begins_near_the_relu():
    relu, state = eqx.nn.make_with_state(DynamicReLU)(3, 4, 2, key=KEY)
    x, still = noise(2, 2, 3), jnp.zeros(4)
    np.testing.assert_allclose(relu(x, still, state), jax.nn.relu(x), atol=1e-6)
    full = eqx.tree_at(lambda relu: relu.coefficients.bias, relu, jnp.full(12, 100.0))  # 2 sigmoid - 1 is 1
    np.testing.assert_allclose(full(x, still, state), jnp.maximum(2 * x + 0.5, x + 0.5), atol=1e-5)


def test_a_dymn_without_contexts_is_a_mobilenet_without_excitation():
    dymn, state = small(DyMN, (0,) * 15)
    x = noise(40, 64)
    y, _ = eqx.filter_jit(dymn.layers)(x, state)
    assert [each.shape[:2] for each in y] == [(20, 32), (10, 16), (5, 8), (3, 4), (3, 4), (2, 2), (2, 2)]
    assert [each.shape[2] for each in y] == 6 * [4] + [24]
    assert all(isinstance(block, InvertedResidual) and block.excite is None for block in dymn.blocks)


@pytest.mark.parametrize("contexts", [None, (4,) * 15])
def test_a_map_has_a_step_for_each_32_frames(contexts):
    network, state = small(MobileNetV3) if contexts is None else small(DyMN, contexts)
    for frames in (1, 2, 31, 33, 100):
        y, _ = eqx.filter_eval_shape(network.features, jax.ShapeDtypeStruct((frames, 50), jnp.float32), state)
        assert y.shape == (-(-frames // 32), 2, 24)
    np.testing.assert_array_equal(network.positions(3), [0, 32, 64])
    np.testing.assert_array_equal(network.positions(3, 0), [0, 2, 4])


def test_a_file_is_refused_before_a_filterbank_of_a_billion_bins_is_made(shared, tmp_path):
    for name, fault in (
        ("mn_mels_999999999_x.pt", "asks for bins 1e+09"),
        ("mn_hop_0_x.pt", "hop_length is 0 samples: it must"),
    ):
        shutil.copy(shared / "oracles" / "efficientat_mn" / "mn_small_as.pt", tmp_path / name)
        with pytest.raises(ValueError, match=re.escape(fault)):
            zoo.convert(tmp_path / name, tmp_path / "made", labels=[str(index) for index in range(527)])
        assert not (tmp_path / "made").exists()


# Files ----------------------------------------------------------------------------------------------------------------


def shapes(shared, name):
    """The shapes of the arrays in an oracle's file."""
    return dict(shapes_of(open_file(shared / "oracles" / name / ORACLES[name])[1]))


def recognised(shapes, file="file.pt", arrays=()):
    return efficientat.recognise(WeightFile(pathlib.Path(file), "torch", dict(arrays), shapes))


@pytest.mark.parametrize(
    ("file", "numbers"),
    [
        ("mn10_as_mAP_471.pt", {}),
        ("mn10_as_hop_15_mAP_463.pt", {"hop_length": 480}),
        ("mn10_as_hop_5_mAP_475.pt", {"hop_length": 160}),
        ("mn10_as_mels_64_mAP_461.pt", {"bins": 64}),
    ],
)
def test_a_name_tells_what_no_array_does(shared, file, numbers):
    entry = recognised(shapes(shared, "efficientat_mn"), file).entry
    assert entry.frontend == {"type": "efficientat_log_mel", "sample_rate": 32000} | numbers


def test_the_temperature_is_that_at_which_training_ended(shared):
    counter, keys = "in_c.1.num_batches_tracked", shapes(shared, "efficientat_dymn")

    def temperature(file="dymn04_as.pt", **arrays):
        return recognised(keys, file, {counter: arrays["count"]} if arrays else ()).entry.network["temperature"]

    assert temperature() == 1.0 == temperature(count=np.int64(7))
    assert temperature(count=np.int64(0)) == 30.0 == temperature("dymn04_im.pt") == temperature("dymn10_im_1.pt")
    assert temperature("dymn10_improved.pt") == 1.0 == temperature("my_images_dymn10.pt")


def test_files_of_other_classes_or_widths_are_nobodys(shared):
    keys = shapes(shared, "efficientat_mn")
    other = recognised(keys | {"classifier.5.weight": (10, 256), "classifier.5.bias": (10,)}).entry
    assert (other.classes, other.task, other.license, other.source) == (10, "multiclass", None, None)
    wider = recognised(keys | {"features.16.0.weight": (192, 32, 1, 1), "features.0.1.weight": (9,)}).entry
    assert (wider.license, wider.source, recognised(keys).entry.license) == (None, None, "MIT")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classifier.0.weight": (527, 192, 1, 1)}, "fully convolutional head: the zoo has those of two linear layers"),
        ({"classifier.subspace_proj.weight": (1, 1)}, "attention pooling head"),
        ({"features.4.block.2.conc_se_layers.0.fc1.weight": (8, 32)}, "excitations of times or frequencies"),
        ({"features.4.block.2.conc_se_layers.1.fc1.weight": (8, 32)}, "excitations of times or frequencies"),
    ],
)
def test_what_the_zoo_does_not_have_is_told(shared, change, message):
    with pytest.raises(ValueError, match=message):
        recognised(shapes(shared, "efficientat_mn") | change)


def test_a_file_that_lacks_an_array_is_told(shared):
    keys = shapes(shared, "efficientat_dymn")
    del keys["layers.3.proj_norm.weight"]
    with pytest.raises(ValueError, match=r"not a whole efficientat checkpoint: it has no 'layers\.3\.proj_norm"):
        zoo.families.recognise(WeightFile(pathlib.Path("file.pt"), "torch", {}, keys))


def test_torchvisions_is_not_taken_for_it():
    assert recognised({"features.0.0.weight": (16, 3, 3, 3), "features.16.0.weight": (960, 160, 1, 1),
                       "features.1.block.0.0.weight": (16, 1, 3, 3)}) is None  # fmt: skip
    assert len(STAGES) == 15


def test_every_rule_of_a_file_is_used(shared):
    for name in ORACLES:
        keys = shapes(shared, name)
        rules = [rule.pattern for rule in recognised(keys).rules]
        spare = {rule for rule in rules if not any(re.fullmatch(rule, key) for key in keys)}
        assert all("conc_se" in rule or rule.startswith(r"layers\.0\.exp_") for rule in spare)
