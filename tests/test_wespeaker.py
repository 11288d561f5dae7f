"""WeSpeaker and its features against pyannote.audio's numbers, and the ways in which its files load."""

import functools
import json
import pathlib
import pickletools
import zipfile

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import error
from golden.seeded import fill, uniform
from padding import assert_padding_has_no_gradient, assert_padding_has_no_part
from safetensors.numpy import save_file

import zoo
from audax_eqx import networks
from audax_eqx.frontends import KaldiFbank, wespeaker_fbank
from audax_eqx.models import Encoder
from audax_eqx.networks import WeSpeaker
from audax_eqx.networks.wespeaker import statistics
from zoo import families
from zoo._foreign import WeightFile
from zoo._load import fit

with np.load(pathlib.Path(__file__).parent / "golden" / "wespeaker.npz") as file:
    GOLDEN = dict(file)
KEY = jax.random.key(0)
SAMPLES = (2000, 8000, 12345)
CONFIG = """
task:
  _target_: pyannote.audio.tasks.SupervisedRepresentationLearningWithArcFace
model:
  _target_: pyannote.audio.models.embedding.WeSpeakerResNet34
  sample_rate: 16000
  num_channels: 1
  num_mel_bins: 80
  frame_length: 25
  frame_shift: 10
  dither: 0.0
  window_type: "hamming"
  use_energy: false
"""


def wave_of(samples):
    return (0.5 * uniform(f"wave of {samples}", (samples,))).astype(np.float32)


def written(folder, case):
    """The file as pyannote.audio writes it."""
    path = folder / "pytorch_model.bin"
    path.write_bytes(GOLDEN[f"{case}/file"].tobytes())
    return path


# Numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case, rate", [("basic", 16000), ("bottleneck", 8000)])
def test_pyannotes_checkpoint_gives_pyannotes_numbers(tmp_path, case, rate):
    clip = zoo.load(zoo.convert(written(tmp_path, case), tmp_path / "ours"))
    assert (clip.sample_rate, clip.entry.task, clip.entry.license) == (rate, "embedding", None)
    for samples in SAMPLES:
        wave = jnp.asarray(wave_of(samples))
        golden = {part: GOLDEN[f"{case}/{samples}/{part}"] for part in ("features", "frames", "embedding")}
        assert error(clip.model.frontend(wave), golden["features"]) < 1e-5
        assert error(clip.embed(wave), golden["embedding"]) < 1e-5
        assert error(clip.frames(wave), golden["frames"].mean(axis=1)) < 1e-5
        assert len(clip.frame_times(7)) == 7


PARAMETERS = {
    "wespeaker_resnet34": 6_634_336,
    "wespeaker_resnet152": 19_814_880,
    "wespeaker_resnet221": 23_792_224,
    "wespeaker_resnet293": 28_626_016,
}


def test_published_numbers_of_parameters():
    for name, parameters in PARAMETERS.items():
        model, _ = eqx.filter_eval_shape(eqx.nn.make_with_state(getattr(networks, name)), key=KEY)
        assert sum(leaf.size for leaf in jax.tree.leaves(model) if hasattr(leaf, "size")) == parameters


def test_statistics_are_numpys():
    y = np.asarray(jax.random.normal(KEY, (7, 3, 4)))
    expected = np.concatenate([y.mean(axis=0).T.reshape(-1), y.std(axis=0, ddof=1).T.reshape(-1)])
    np.testing.assert_allclose(statistics(jnp.asarray(y)), expected, rtol=1e-5)
    padded = jnp.concatenate([y, jnp.full((4, 3, 4), 1e6)])
    np.testing.assert_allclose(statistics(padded, jnp.asarray(7)), expected, rtol=1e-5)
    (mean, deviation) = np.split(np.asarray(statistics(padded, 1)), 2)
    np.testing.assert_allclose(mean, y[0].T.reshape(-1), rtol=1e-6)
    assert not np.any(deviation)  # torch has NaN here


def test_features_lose_their_mean_over_the_frames_that_count():
    wave = jnp.asarray(wave_of(8000))
    frontend = wespeaker_fbank(16000)
    plain = KaldiFbank(16000, 80, window="hamming", gain=2.0**15)
    features = plain(wave)
    np.testing.assert_allclose(frontend(wave), features - features.mean(axis=0)[None], atol=1e-4)
    noisy = jnp.concatenate([wave, jnp.full(4000, 0.9)])
    np.testing.assert_allclose(frontend(noisy, length=8000)[:48], frontend(wave), atol=1e-4)
    assert not np.any(frontend(jnp.zeros(4000)))


@pytest.mark.parametrize("options", [{"depths": ()}, {"depths": (1, 0)}, {"depths": (1,) * 9}, {"bins": 0}])
def test_sizes_that_make_no_network_are_refused(options):
    with pytest.raises(ValueError, match="WeSpeaker takes 1 to 8 depths"):
        eqx.filter_eval_shape(functools.partial(WeSpeaker, **{"depths": (1,)} | options), key=KEY)


# Padding --------------------------------------------------------------------------------------------------------------


def small(key, bottleneck=False):
    network = WeSpeaker((1, 2, 1), 6, 3, bins=12, bottleneck=bottleneck, key=key)
    return Encoder(wespeaker_fbank(8000, bins=12), network, key=key)


@functools.cache
def seeded(bottleneck):
    model, state = fill(functools.partial(small, bottleneck=bottleneck))
    return eqx.nn.inference_mode(model), state


@pytest.mark.parametrize("bottleneck, samples", [(False, 200), (False, 2345), (True, 281), (True, 2400)])
def test_padding_has_no_part_in_a_result(bottleneck, samples):
    model, state = seeded(bottleneck)
    assert_padding_has_no_part(model, state, samples)


def test_padding_has_no_gradient():
    model, state = seeded(False)
    assert_padding_has_no_gradient(model, state, 1480)


# Files ----------------------------------------------------------------------------------------------------------------


def names_in(path):
    """What the pickle of a file names."""
    with zipfile.ZipFile(path) as archive:
        (pickled,) = (archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    return {argument for opcode, argument, _ in pickletools.genops(pickled) if opcode.name == "GLOBAL"}


def test_objects_of_pyannote_mean_nothing_and_others_are_refused(tmp_path):
    path = written(tmp_path, "basic")
    assert names_in(path) == {
        "collections OrderedDict",
        "torch FloatStorage",
        "torch LongStorage",
        "torch._utils _rebuild_tensor_v2",
        "torch.torch_version TorchVersion",
        "pyannote.audio.core.task Problem",
        "pyannote.audio.core.task Resolution",
        "pyannote.audio.core.task Specifications",
    }
    arrays = zoo.arrays(path)
    assert all(key.startswith("state_dict.resnet.") for key in arrays)
    assert arrays.settings["pyannote.audio"]["architecture"]["class"] == "BaseWeSpeakerResNet"
    assert "specifications" not in arrays.settings["pyannote.audio"]
    path.write_bytes(path.read_bytes().replace(b"pyannote.audio.core.task\n", b"pyannot3.audio.core.task\n"))
    with pytest.raises(ValueError, match=r"(names pyannot3\.audio|checksum|broken)"):
        zoo.arrays(path)


def own_arrays(tmp_path, before):
    """The arrays of the golden file under other keys."""
    arrays = zoo.arrays(written(tmp_path, "basic"))
    keys = {f"{before}{key.removeprefix('state_dict.resnet.')}": key for key in arrays}
    return {name: arrays[key] for name, key in keys.items() if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize("before", ["", "resnet.", "model.resnet."])
def test_wespeakers_own_file_converts_to_the_same(tmp_path, before):
    classifier = {f"{before.removesuffix('resnet.')}projection.weight": np.zeros((9, 7), np.float32)}
    save_file(own_arrays(tmp_path, before) | classifier, tmp_path / "avg_model.safetensors")
    wave = wave_of(8000)
    clip = zoo.load(zoo.convert(tmp_path / "avg_model.safetensors", tmp_path / "ours"))
    assert error(clip.embed(wave), GOLDEN["basic/8000/embedding"]) < 1e-5


def test_a_published_file_is_described_by_its_config(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    entry, published = zoo.info(tmp_path), zoo.info("wespeaker_resnet34")
    known = json.loads((pathlib.Path(__file__).parent / "golden" / "checkpoints.json").read_text())
    shapes = {key: tuple(shape) for key, shape in known["wespeaker_resnet34"].items()}
    fit(entry, shapes, "file", families.rules("wespeaker"))
    source = WeightFile(pathlib.Path("pytorch_model.bin"), "torch", {}, shapes)
    recognised = families.recognise(source)
    assert (recognised.entry.license, recognised.entry.source) == (published.license, published.source)
    for field in ("frontend", "window", "task", "model"):
        assert getattr(recognised.entry, field) == getattr(entry, field), field
    assert recognised.entry.network == dict(entry.network) | {"width": 256, "channels": 32}
    assert (published.metrics[0]["metric"], published.metrics[0]["value"]) == ("EER", 0.00797)


def test_a_file_without_a_class_is_told_and_nothing_is_made_of_aliases(tmp_path):
    written(tmp_path, "basic")
    lists = "".join(f"a{index}: &a{index} [{','.join([f'*a{index - 1}'] * 10)}]\n" for index in range(1, 9))
    for text, fault in (
        (f"a0: &a0 [x]\n{lists}model:\n  _target_: *a8\n", "with anchors"),
        ("model: " + "[" * 60_000, "with 60000 brackets, and the zoo reads 65536 with 100: shorten it"),
        ("model:\n  _target_: [x]\n", "without the _target_ of its model, the name of a class: add it"),
        ("model:\n  sample_rate: 16000\n", "without the _target_ of its model"),
    ):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(ValueError, match=fault):
            zoo.load(tmp_path)


@pytest.mark.parametrize(
    "old, new, fault",
    [
        ("WeSpeakerResNet34", "XVectorSincNet", "holds a pyannote.audio.models.embedding.XVectorSincNet by its config"),
        ("WeSpeakerResNet34", "WeSpeakerResNet35", "the zoo reads WeSpeakerResNet34, WeSpeakerResNet152"),
        ("num_channels: 1", "num_channels: 2", r"config\.yaml, has the num_channels 2: the zoo has 1"),
        ("use_energy: false", "use_energy: true", "has the use_energy True: the zoo has False"),
        ("dither: 0.0", "dither: 1.0", r"has the dither 1\.0: the zoo has 0\.0"),
        ("dither: 0.0", "fbank_centering_span: 3.0", "has the fbank_centering_span 3.0: the zoo has None"),
        ("dither: 0.0", "octaves: 3", "has the field octaves"),
        ('"hamming"', '"kaiser"', "has the window_type 'kaiser': the zoo has 'hamming'"),
        ("num_mel_bins: 80", "num_mel_bins: 8000000", "asks for bins"),
        ("num_mel_bins: 80", "num_mel_bins: [80]", r"config\.yaml, has the num_mel_bins \[80\]: write a whole number"),
        (
            "frame_length: 25",
            "frame_length: long",
            r"config\.yaml, has the frame_length 'long': write a number above 0",
        ),
        (
            "frame_length: 25",
            "frame_length: [25]",
            r"config\.yaml, has the frame_length \[25\]: write a number above 0",
        ),
        ("frame_length: 25", "frame_length: .nan", "has the frame_length nan: write a number above 0"),
        ("frame_length: 25", "1: 25", r"config\.yaml, has the field 1, and fields have names: take it out"),
        ("sample_rate: 16000", "sample_rate: 0", r"config\.yaml, has the sample_rate 0: write a whole number above 0"),
        ("sample_rate: 16000", "sample_rate: yes", r"has the sample_rate True: write a whole number above 0"),
        ("sample_rate: 16000", "sample_rate: 2020-13-45", r"has a config\.yaml that is not YAML \(month must be in"),
        ("model:", "_target_: &a x\nmodel:", r"config\.yaml with anchors \(&\) or aliases \(\*\): write out what"),
        ("model:", "model: *a\nnetwork:", r"config\.yaml with anchors \(&\) or aliases \(\*\): write out what"),
        (
            "model:",
            f"#{'x' * (1 << 16)}\nmodel:",
            r"has a config\.yaml of \d+ letters with 0 brackets, and the zoo reads 65536 with",
        ),
        ("model:", "model: [", "not YAML"),
        ("model:", "network:", "without the settings of a model of pyannote.audio"),
    ],
)
def test_settings_that_the_zoo_does_not_honour_are_told_in_a_sentence(tmp_path, old, new, fault):
    assert old in CONFIG
    (tmp_path / "config.yaml").write_text(CONFIG.replace(old, new, 1))
    written(tmp_path, "basic")
    with pytest.raises(ValueError, match=fault) as raised:
        zoo.load(tmp_path)
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")
