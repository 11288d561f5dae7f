"""ECAPA-TDNN and its features against SpeechBrain's numbers, and the ways in which its files load."""

import functools
import json
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import error
from golden.seeded import fill, values
from padding import assert_padding_has_no_gradient, assert_padding_has_no_part
from safetensors.numpy import save_file

import zoo
from audax_eqx import networks
from audax_eqx.frontends import SpeechBrainFbank
from audax_eqx.layers import Cosine, SqueezeExcite, reflect
from audax_eqx.models import Classifier, Encoder
from audax_eqx.networks import ECAPA
from zoo import families
from zoo._create import skeleton
from zoo._foreign import WeightFile
from zoo._load import fit
from zoo._speechbrain import encoded_labels, hyperparams

with np.load(pathlib.Path(__file__).parent / "golden" / "ecapa.npz") as file:
    GOLDEN = dict(file)
KEY = jax.random.key(0)
SETTINGS = """
# how a repo describes itself
n_mels: 80
out_n_neurons: 7
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [32, 32, 32, 32, 96]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 16
    se_channels: 16
    lin_neurons: 24
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 24
    out_neurons: !ref <out_n_neurons>
modules:
    embedding_model: !ref <embedding_model>
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    paths:
        classifier: !ref <pretrained_path>/classifier.ckpt
"""
LANGUAGE = """
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: 20
    left_frames: 0
    right_frames: 0
    deltas: False
mean_var_norm: !new:speechbrain.processing.features.InputNormalization {norm_type: sentence, std_norm: False}
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    channels: [16, 16, 16, 16, 24]
    attention_channels: 6
    se_channels: 5
    res2net_scale: 4
    lin_neurons: 10
classifier: !new:speechbrain.lobes.models.Xvector.Classifier
    input_shape: [null, null, 10]
    activation: !name:torch.nn.LeakyReLU
    lin_blocks: 1
    lin_neurons: 9
    out_neurons: 4
"""
SHALLOW = """
compute_features: !new:speechbrain.lobes.features.Fbank
    sample_rate: 8000
    n_mels: 24
    n_fft: 256
    f_min: 50
    f_max: 3800
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    channels: [12, 12, 12, 20]
    kernel_sizes: [3, 5, 3, 1]
    dilations: [1, 2, 5, 1]
    attention_channels: 6
    se_channels: 5
    res2net_scale: 4
    lin_neurons: 7
    global_context: False
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 7
    out_neurons: 3
"""


def wave_of(samples):
    from golden.seeded import uniform

    return (0.5 * uniform(f"wave of {samples}", (samples,))).astype(np.float32)


def repo(folder, case, settings):
    """A folder with the files of a repo of SpeechBrain's, seeded."""
    shapes = json.loads(str(GOLDEN[f"{case}/shapes"]))
    for part in ("embedding_model", "classifier"):
        keys = [key for key in shapes if key.startswith(part) and not key.endswith("num_batches_tracked")]
        arrays = {key.removeprefix(f"{part}."): values(key, tuple(shapes[key])) for key in keys}
        save_file(arrays, folder / f"{part}.ckpt")
    (folder / "hyperparams.yaml").write_text(settings)
    return folder


# Numbers --------------------------------------------------------------------------------------------------------------


def test_the_oracle_by_its_files(shared, tmp_path):
    oracle = shared / "oracles" / "ecapa"
    golden = np.load(oracle / "golden.npz")
    for name in ("embedding_model.ckpt", "classifier.ckpt"):
        (tmp_path / name).write_bytes((oracle / name).read_bytes())
    (tmp_path / "hyperparams.yaml").write_text(SETTINGS)
    (tmp_path / "label_encoder.txt").write_text(
        "".join(f"'id{index}' => {index}\n" for index in (3, 0, 1, 2, 6, 5, 4)) + "================\n'starting' => 0\n"
    )
    clips = [zoo.load(tmp_path), zoo.load(zoo.convert(oracle / "embedding_model.ckpt", tmp_path / "ours"))]
    assert clips[0].labels == tuple(f"id{index}" for index in range(7)) and clips[0].model.head.scale == 30.0
    weight = zoo.arrays(oracle / "classifier.ckpt")["weight"]
    for letter, clip in zip("ab", clips, strict=True):
        wave, embedding = jnp.asarray(golden[f"wave_{letter}"]), golden[f"embedding_{letter}"]
        cosines = weight @ embedding / np.linalg.norm(weight, axis=1) / np.linalg.norm(embedding)
        assert error(clip.embed(wave), embedding) < 2e-6
        assert error(clip(wave), 30 * cosines) < 2e-6
        # theirs, too, is so far from numbers in float64, in bins 75 dB below the loudest
        assert error(clip.model.frontend(wave), golden[f"normalised_{letter}"]) < 5e-5
        raw = eqx.filter_jit(SpeechBrainFbank(centred=False))(wave)
        assert error(raw, golden[f"fbank_{letter}"]) < 5e-5


@pytest.mark.parametrize("case", ["language", "shallow"])
def test_other_sizes_and_classifiers_are_speechbrains(tmp_path, case):
    clip = zoo.load(repo(tmp_path, case, {"language": LANGUAGE, "shallow": SHALLOW}[case]))
    for samples in (4000, 7777):
        golden = {part: GOLDEN[f"{case}/{samples}/{part}"] for part in ("features", "embedding", "logits")}
        wave = wave_of(samples)
        assert error(eqx.filter_jit(clip.model.frontend)(wave), golden["features"]) < 1e-5
        assert error(clip.embed(wave), golden["embedding"]) < 1e-5
        logits = clip(wave)
        ours = jax.nn.log_softmax(logits) if case == "language" else logits / 30.0
        assert error(ours, golden["logits"]) < 1e-5
    converted = zoo.load(
        zoo.convert(tmp_path / "embedding_model.ckpt", tmp_path / "ours", sample_rate=clip.sample_rate)
    )
    if case == "language":
        np.testing.assert_array_equal(converted(wave), logits)
    assert converted.entry.model == clip.entry.model


PARAMETERS = {"ecapa_512": 6_194_048, "ecapa_1024": 20_767_552}


def test_published_numbers_of_parameters():
    for name, parameters in PARAMETERS.items():
        model, _ = eqx.filter_eval_shape(eqx.nn.make_with_state(getattr(networks, name)), key=KEY)
        assert sum(leaf.size for leaf in jax.tree.leaves(model) if hasattr(leaf, "size")) == parameters


def test_published_models_say_whose_they_are():
    speakers, languages = map(zoo.info, ("ecapa_voxceleb", "ecapa_voxlingua107"))
    assert (speakers.license, speakers.classes, speakers.metrics[0]["metric"]) == ("Apache-2.0", 7205, "EER")
    assert (languages.license, languages.classes, languages.network["width"]) == ("Apache-2.0", 107, 256)


@pytest.mark.parametrize("name", ["ecapa_voxceleb", "ecapa_voxlingua107"])
def test_a_published_file_is_recognised_and_says_all_its_sizes(name):
    known = json.loads((pathlib.Path(__file__).parent / "golden" / "checkpoints.json").read_text())[name]
    part = "embedding_model."
    shapes = {key.removeprefix(part): tuple(shape) for key, shape in known.items() if key.startswith(part)}
    source = WeightFile(pathlib.Path("file"), "torch", {}, shapes)
    (recognised,) = filter(None, (family.recognise(source) for family in families.having("recognise")))
    fit(recognised.entry, shapes, "file", recognised.rules)  # every array, and no other
    entry = zoo.info(name)
    published = recognised.entry.replace(frontend=entry.frontend, network=entry.network)
    ours, published = skeleton(recognised.entry)[0], skeleton(published)[0]
    assert ours.frontend == published.frontend
    assert jax.tree.structure(ours.network) == jax.tree.structure(published.network)  # its static numbers, too
    assert (recognised.entry.license, recognised.entry.task) == ("Apache-2.0", "embedding")


# Padding --------------------------------------------------------------------------------------------------------------


def small(key, make=Encoder, context=True, **options):
    network = ECAPA(6, 8, 12, bins=10, parts=2, squeezed=3, hidden=4, context=context, key=key)
    frontend = SpeechBrainFbank(8000, bins=10, n_fft=256, win_length=200, hop_length=80)
    return make(frontend, network, **options, key=key)


MODELS = {
    "encoder": functools.partial(small, context=False),
    "cosines": functools.partial(small, make=Classifier, classes=3, cosine=30.0),
    "hidden layers": functools.partial(small, make=Classifier, classes=3, hidden=(5, 4)),
}


@functools.cache
def seeded(name):
    model, state = fill(MODELS[name])
    return eqx.nn.inference_mode(model), state


CASES = (("encoder", 1), ("encoder", 300), ("cosines", 2345), ("hidden layers", 2345))  # 1, 4 and 30 frames


@pytest.mark.parametrize(
    "name, samples", [("encoder", 1), ("encoder", 300), ("cosines", 2345), ("hidden layers", 2345)]
)
def test_padding_has_no_part_in_a_result(name, samples):
    model, state = seeded(name)
    assert_padding_has_no_part(model, state, samples)


def test_padding_has_no_gradient():
    model, state = seeded("encoder")
    assert_padding_has_no_gradient(model, state, 1500)


@pytest.mark.parametrize("size, count", [(7, 3), (4, 3), (3, 5), (2, 4), (1, 3)])
def test_reflection_is_numpys(size, count):
    x = np.arange(2.0 * size, dtype=np.float32).reshape(size, 2)
    expected = np.pad(x, ((count, count), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(reflect(jnp.asarray(x), count), expected)
    padded = jnp.concatenate([x, np.full((5, 2), np.nan, np.float32)])
    np.testing.assert_array_equal(reflect(padded, count, jnp.asarray(size))[: len(expected)], expected)


def test_excitation_by_the_first_steps_is_that_of_them_alone():
    layer = SqueezeExcite(4, 3, activation="relu", key=KEY)
    x = jax.random.normal(KEY, (9, 2, 4))
    np.testing.assert_allclose(layer(x, length=jnp.asarray(5))[:5], layer(x[:5]), rtol=1e-6)


def test_cosines_are_their_closed_form_at_any_length_of_the_vectors():
    head = eqx.tree_at(lambda tree: tree.weight, Cosine(2, 3, 10.0, key=KEY), jnp.asarray([[2.0, 0], [0, -5], [3, 4]]))
    for length in (1e-2, 1.0, 1e3):
        np.testing.assert_allclose(head(length * jnp.asarray([3.0, 4.0])), [6.0, -8.0, 10.0], rtol=1e-5)
    np.testing.assert_array_equal(head(jnp.zeros(2)), np.zeros(3))
    with pytest.raises(ValueError, match="scale, which must be > 0"):
        Cosine(2, 3, 0.0, key=KEY)


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"taps": (5, 3)}, {"taps": (4, 3, 3, 3, 1)}, {"dilations": (0, 2, 3, 4, 1)}, {"parts": 1}, {"channels": 9}],
)
def test_sizes_that_make_no_network_are_refused(options):
    with pytest.raises(ValueError, match="ECAPA takes"):
        eqx.filter_eval_shape(functools.partial(ECAPA, **options), key=KEY)


@pytest.mark.parametrize(
    "options",
    [{"bins": 0}, {"hop_length": 0}, {"win_length": 500}, {"f_min": 9000.0}, {"win_length": 0}],
)
def test_sizes_that_make_no_filterbank_are_refused(options):
    with pytest.raises(ValueError, match="SpeechBrainFbank takes"):
        SpeechBrainFbank(**options)


@pytest.mark.parametrize(
    "old, new, fault",
    [
        ("std_norm: False", "std_norm: True", "std_norm True: the zoo has False"),
        ("    std_norm: False\n", "", "does not normalise features by the mean of each recording"),
        ("sentence", "global", "norm_type 'global': the zoo has 'sentence'"),
        ("lobes.features.Fbank", "lobes.features.MFCC", "has the !new 'speechbrain.lobes.features.MFCC'"),
        (
            "lin_neurons: 24",
            "lin_neurons: 24\n    activation: !name:torch.nn.GELU",
            "has the activation 'torch.nn.GELU'",
        ),
        (
            "lin_neurons: 24",
            "lin_neurons: 24\n    squeeze: 3",
            r"has the field squeeze \(3\), which the zoo does not know",
        ),
        ("[32, 32, 32, 32, 96]", "[32, 32, 16, 32, 96]", "one width for all"),
        ("embedding_model: !new", "encoder: !new", "without embedding_model, which an ECAPA needs"),
        ("[32, 32, 32, 32, 96]", "32", "field of the wrong type"),
        ("lin_neurons: 24", "lin_neurons: [", "not YAML"),
        ("input_size: 24", "lin_blocks: 2", "lin_blocks 2 in its classifier"),
        ("lin_neurons: 24", "lin_neurons: 2400000", "2.4e"),
    ],
)
def test_settings_that_the_zoo_does_not_honour_are_told_in_a_sentence(tmp_path, old, new, fault):
    assert old in SETTINGS
    (tmp_path / "hyperparams.yaml").write_text(SETTINGS.replace(old, new, 1))
    with pytest.raises(ValueError, match=fault) as raised:
        zoo.info(tmp_path)
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")


@pytest.mark.parametrize("text", ["- a\n- b", "!!python/object/apply:os.system [ls]", "\t", "{1: 2}"])
def test_other_yaml_runs_nothing_and_is_refused(text):
    with pytest.raises(ValueError, match=r"x has a hyperparams\.yaml"):
        hyperparams("x", text)


def test_labels_are_sorted_by_number_and_other_lines_are_refused():
    assert encoded_labels("x", "'th: Thai' => 1\n\"it's\" => 0\n====================\n'a' => 9") == ("it's", "th: Thai")
    for text in ("a => 0", "'a' => 1", "'a' => 0\n'b' => 0\n'c' => 3", "__import__('os') => 0", "'a' = 0"):
        with pytest.raises(ValueError, match=r"x has .* in its label_encoder\.txt"):
            encoded_labels("x", text)
