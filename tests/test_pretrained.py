"""A pretrained model in hands that change it: other heads, other levels, other processes; what it prints and hashes."""

import subprocess
import sys
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_finetune import BASE, KEY, WAVE, contrastive, pretrained

import zoo
from audax_eqx.layers import Linear

DOORS = ["__call__", "probabilities", "top", "embed", "frames"]


def sentence(raised):
    message = str(raised.value)
    assert "\n" not in message and message.endswith(".") and len(message) < 400
    return message


@pytest.fixture(scope="module")
def clip():
    return pretrained()


def with_head(clip, head):
    return eqx.tree_at(lambda each: each.model.head, clip, head)


# Heads


@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_a_head_of_other_classes_does_not_take_the_old_labels(clip, outputs, tmp_path):
    changed = with_head(clip, Linear(4, outputs, key=KEY))
    for use in (lambda: changed.top(WAVE), lambda: changed.probabilities(WAVE), lambda: changed.labels):
        with pytest.raises(ValueError, match=rf"head of {outputs} outputs and the labels of 3 classes.*thaw\(labels="):
            use()
    with pytest.raises(ValueError, match=rf"head\.weight is \({outputs}, 4\) instead of \(3, 4\)"):
        zoo.save(tmp_path / "changed", changed.model, changed.state, changed.entry)
    np.testing.assert_array_equal(changed.embed(WAVE), clip.embed(WAVE))
    assert changed(WAVE).shape == (outputs,)


def test_a_head_of_as_many_classes_keeps_them(clip):
    changed = with_head(clip, Linear(4, 3, bias=False, key=KEY))
    assert {label for label, _ in changed.top(WAVE)} == set(changed.labels) == {"a", "b", "c"}


@pytest.mark.parametrize("head", [eqx.nn.Linear(4, 3, key=KEY), eqx.nn.MLP(4, 3, 8, 1, key=KEY), None, jnp.tanh])
def test_another_kind_of_head_is_told_in_one_sentence(clip, head):
    changed = with_head(clip, head)
    for use in (lambda: changed(WAVE), lambda: changed.top(WAVE), lambda: changed.labels):
        with pytest.raises(
            TypeError, match=r"a Classifier takes an audax_eqx\.layers\.Linear: Linear\(4, 3, "
        ) as raised:
            use()
        sentence(raised)


@pytest.mark.parametrize(
    "change",
    [
        lambda clip: with_head(clip, Linear(6, 3, key=KEY)),
        lambda clip: eqx.tree_at(lambda each: each.model.head.weight, clip, jnp.zeros((2, 4))),
        lambda clip: eqx.tree_at(lambda each: each.model.head.bias, clip, jnp.zeros(2)),
    ],
    ids=["inputs", "weight", "bias"],
)
def test_a_head_of_other_shapes_is_told_in_one_sentence(clip, change):
    changed = change(clip)
    for use in (lambda: changed(WAVE), lambda: changed.top(WAVE), lambda: changed.labels):
        with pytest.raises(ValueError, match=r"embedding of 4 numbers: put in a whole one") as raised:
            use()
        sentence(raised)


# Text and hashes


def test_it_prints_as_one_line(clip):
    numbers = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(clip.model, eqx.is_array)))
    text = repr(clip)
    assert text == str(clip) and "\n" not in text and len(text) < 200
    assert text.startswith("Pretrained(owner/base: multilabel, 3 classes (a, b, c), 8000 Hz, windows of 2 s, ")
    assert f"{numbers / 1e6:.3g} million parameters" in text
    many = zoo.Pretrained(clip.model, clip.state, BASE.replace(labels=(), classes=527))
    assert "527 classes, 8000 Hz" in repr(many)
    assert "(x, y, z, ...)" in repr(
        zoo.Pretrained(clip.model, clip.state, BASE.replace(labels=tuple("xyzw"), classes=4))
    )
    assert "contrastive, 8000 Hz" in repr(contrastive())


def test_all_arrays_are_printed_by_equinox(clip):
    assert eqx.tree_pformat(clip).count("f32[") == len(jax.tree.leaves(eqx.filter(clip, eqx.is_array)))
    for part in (jax.tree.map(lambda _: None, clip), eqx.filter_eval_shape(lambda: clip)):
        assert repr(part).startswith("Pretrained(owner/base")


@pytest.mark.parametrize("method", ["probabilities", "top", "embed", "frames", None])
def test_jit_of_a_method_names_filter_jit(clip, method):
    with pytest.raises(TypeError, match=r"jax\.jit cannot take its methods: use eqx\.filter_jit") as raised:
        jax.jit(getattr(clip, method) if method else clip)(WAVE)
    sentence(raised)


def test_filter_jit_takes_a_method_and_a_model_without_arrays_has_a_hash(clip):
    np.testing.assert_allclose(eqx.filter_jit(clip.embed)(WAVE), clip.embed(WAVE), rtol=1e-5, atol=1e-6)
    assert hash(eqx.filter(clip, eqx.is_array, inverse=True)) is not None


# Levels


@pytest.mark.parametrize(
    "peak, remedy",
    [
        (32768.0, "divide them by 32768 if they come from 16-bit integers"),
        (9000.0, "divide them by 32768 if"),
        (2.0**23, "divide them by 8388608 if they come from 24-bit integers"),
        (2.0**31, "divide them by 2147483648 if they come from 32-bit integers"),
        (9.0, "scale them"),
        (1e12, "scale them"),
    ],
)
def test_loud_samples_are_warned_of_with_the_remedy(clip, peak, remedy):
    for wave in (np.abs(WAVE) / np.abs(WAVE).max() * np.float32(peak), WAVE / -np.abs(WAVE).max() * np.float32(peak)):
        with pytest.warns(UserWarning, match=rf"owner/base takes samples in \[-1, 1\], got far larger ones: {remedy}"):
            clip.embed(jnp.asarray(wave))


@pytest.mark.parametrize("method", DOORS)
def test_every_door_warns_of_loud_samples(clip, method):
    with pytest.warns(UserWarning, match="divide them by 32768"):
        getattr(clip, method)(WAVE * np.float32(32768))


@pytest.mark.parametrize("peak", [1e-6, 1.0, 1.02, 2.0])
def test_samples_that_overshoot_a_little_are_not_warned_of(clip, peak, recwarn):
    clip.embed(WAVE / np.abs(WAVE).max() * np.float32(peak))
    assert not recwarn.list


def test_loud_samples_are_warned_of_once(clip):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for scale in (20000, 30000):
            clip.embed(WAVE * np.float32(scale))
        clip.top(WAVE * np.float32(25000))
    assert len(caught) == 1


# Processes

FORK = """
import multiprocessing, sys
import numpy as np, zoo

clip = zoo.load("resnet_fsdd") if sys.argv[1] == "before" else None

def work(number):
    used = clip or zoo.load("resnet_fsdd")
    try:
        return used.embed(np.zeros(8000, np.float32)).shape
    except RuntimeError as error:
        return str(error)

with multiprocessing.get_context("fork").Pool(1) as pool:
    print(pool.map_async(work, [0]).get(timeout=60)[0])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.parametrize("loaded", ["before", "after"])
def test_a_forked_process_is_told_rather_than_left_waiting(loaded):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, loaded], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    if loaded == "after":  # it is the first to use JAX
        assert done.stdout == "(128,)\n"
    else:
        assert "resnet_fsdd cannot compute in a process forked from one that uses JAX" in done.stdout
        assert 'multiprocessing.get_context("spawn")' in done.stdout


def test_numbers_of_numpy_are_numbers():
    clip = zoo.load("resnet_fsdd")
    wave = zoo.read(zoo.example(), np.int64(8000))[:8000]
    np.testing.assert_array_equal(wave, zoo.read(zoo.example(), 8000.0)[:8000])
    assert len(clip.top(wave, k=np.int64(3), sample_rate=8000.0)) == 3
    assert clip.thaw(classes=np.int64(4), key=jax.random.key(0)).entry.classes == 4
    with pytest.raises(ValueError, match=r"Sound is read at a whole number of 100 to 10000000 Hz, got 8000\.5"):
        zoo.read(zoo.example(), 8000.5)
