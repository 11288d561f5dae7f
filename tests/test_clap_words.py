"""CLAP's words: texts, labels and prompts, what the zoo makes of them, and the shell."""

import json
import pathlib
import pickle
import re
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pages
import pytest
from arrays import error
from clap import ENTRY, RATE, WORDS, noise, tokenizer

import zoo
from audax_eqx.models import CLAP, Classifier
from zoo.__main__ import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small CLAP as `zoo.save` writes it, with a tokenizer beside it."""
    path = tmp_path_factory.mktemp("clap") / "small"
    model, state = zoo.create(ENTRY, key=jax.random.key(0))
    model = jax.tree.map(lambda leaf: 20 * leaf if eqx.is_array(leaf) and leaf.ndim > 1 else leaf, model)
    zoo.save(path, model, state, ENTRY)
    (path / "tokenizer.json").write_text(tokenizer().to_str())
    return path


@pytest.fixture(scope="module")
def clip(folder):
    return zoo.load(folder)


# Words ----------------------------------------------------------------------------------------------------------------


def test_texts_of_any_length_have_few_programs(clip, programs):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS[4:], count)) for count in rng.integers(1, 36, 40)]
    before = programs()
    together = clip.embed_text(texts)
    compiled = programs() - before
    assert together.shape == (40, 6) and compiled <= 3  # 16, 32 and 38 tokens, 8 texts each
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    alone = np.concatenate([clip.embed_text(text) for text in texts[:6]])
    np.testing.assert_allclose(alone, together[:6], atol=1e-6)
    assert programs() - before <= compiled + 3 and error(together[1], together[0]) > 1e-3
    np.testing.assert_array_equal(clip.embed_text(np.array(texts)), together)
    long = " ".join(["dog"] * 100)
    np.testing.assert_allclose(clip.embed_text(long)[0], clip.embed_text(" ".join(["dog"] * 36))[0], atol=1e-6)
    np.testing.assert_array_equal(clip.embed_text(iter(texts[:2])), clip.embed_text(tuple(texts[:2])))


@pytest.mark.parametrize(
    ("texts", "kind", "message"),
    [
        ([], ValueError, "got no text"),
        ([""], ValueError, "an empty one"),
        (["dog", "  "], ValueError, "an empty one"),
        ([1], TypeError, "got a list with 1"),
        (b"dog", TypeError, "got b'dog'"),
        (3, TypeError, "got 3"),
        (["\ud800"], ValueError, "cannot make tokens"),
    ],
)
def test_what_are_no_texts_is_told(clip, texts, kind, message):
    with pytest.raises(kind, match=message):
        clip.embed_text(texts)


def test_other_labels_take_the_same_programs(clip, programs):
    wave = noise(2000)
    clip.zero_shot(["dog", "rain"]).top(wave)
    list(zoo.tag(clip.zero_shot(["dog", "rain"]), [(wave, clip.sample_rate)]))
    before = programs()
    words = clip.zero_shot(["siren", "cat"], prompt="{}")
    words.top(wave)
    list(zoo.tag(words, [(wave, clip.sample_rate)]))
    assert programs() == before


def test_without_labels_the_remedy_is_zero_shot(clip):
    for call in (clip.top, lambda wave: zoo.tag(clip, [(wave, clip.sample_rate)])):
        with pytest.raises(ValueError, match=r"has no classes and names no sounds: (clip\.)?zero_shot\(labels\)"):
            call(noise(2000))


def test_zero_shot_is_the_softmax_of_scaled_cosines(clip):
    labels, wave = ["dog", "rain", "siren"], noise(2000)
    words = clip.zero_shot(labels)
    assert (words.labels, words.entry.task, words.entry.name) == (tuple(labels), "multiclass", "small_zero_shot")
    texts = clip.embed_text([f"This is a sound of {label}." for label in labels])
    logits = np.exp(clip.model.audio_logit_scale) * np.asarray(texts) @ np.asarray(clip.embed(wave))
    np.testing.assert_allclose(words(wave), logits, rtol=1e-4, atol=1e-4)
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    np.testing.assert_allclose(words.probabilities(wave), expected, atol=1e-5)
    assert {label for label, _ in words.top(wave)} == set(labels)
    other = clip.zero_shot(labels, prompt="{}")
    assert error(other.model.head.weight, words.model.head.weight) > 1e-3
    np.testing.assert_allclose(other.model.head.weight, clip.embed_text(labels), atol=1e-6)
    (result,) = zoo.tag(words, [(wave, RATE)])
    np.testing.assert_allclose(result.values[0], words.probabilities(wave), atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ("dog", {}, "labels are the names of all classes"),
        ([], {}, "labels are the names"),
        (["dog", "dog"], {}, "each class once"),
        (["dog", ""], {}, "labels are the names"),
        (["dog"], {"prompt": "a sound"}, "got 'a sound'"),
        (["dog"], {"prompt": "{} {}"}, "got '{} {}'"),
    ],
)
def test_labels_and_prompts_that_make_no_sense_are_told(clip, labels, options, message):
    with pytest.raises(ValueError, match=re.escape(message) if "{" in message else message):
        clip.zero_shot(labels, **options)


def test_models_without_words_say_so(tmp_path, folder):
    deaf = zoo.load("resnet_esc10")
    for call in (deaf.embed_text, deaf.zero_shot):
        with pytest.raises(ValueError, match=r"resnet_esc10 has no words.*clap_unfused"):
            call(["dog"])
    shutil.copytree(folder, tmp_path / "mute")
    (tmp_path / "mute" / "tokenizer.json").unlink()
    mute = zoo.load(tmp_path / "mute", verify=True)
    assert mute.embed(noise(2000)).shape == (6,)
    with pytest.raises(ValueError, match=r"has no tokenizer\.json"):
        mute.embed_text("dog")
    other_words = tokenizer().to_str().replace('"dog":5', '"dog":99')
    for content, message in (("{}", "is not a tokenizer"), (other_words, "24 words")):
        (tmp_path / "mute" / "tokenizer.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            zoo.load(tmp_path / "mute").embed_text("dog")


# The zoo --------------------------------------------------------------------------------------------------------------


def test_a_model_is_saved_with_its_tokenizer(clip, tmp_path):
    zoo.save(tmp_path / "again", clip.model, clip.state, clip.entry)
    again = zoo.load(tmp_path / "again", verify=True)
    np.testing.assert_array_equal(again.embed_text("a dog"), clip.embed_text("a dog"))
    plan = zoo.publish("user/clap", again.model, again.state, again.entry, dry_run=True)
    assert "tokenizer.json" in plan and "texts into embeddings" in (tmp_path / "again" / "README.md").read_text()
    words = clip.zero_shot(["dog", "rain"])
    zoo.save(tmp_path / "words", words.model, words.state, words.entry)
    assert "tokenizer.json" not in {path.name for path in (tmp_path / "words").iterdir()}
    back = zoo.load(tmp_path / "words", verify=True)
    assert back.labels == ("dog", "rain") and back.entry == words.entry
    np.testing.assert_array_equal(back(noise(2000)), words(noise(2000)))


def test_a_recordings_embedding_has_length_1_and_is_the_same_at_every_call(clip):
    long, short = noise(8000), noise(1000, seed=1)  # 2.5 windows
    sounds = [(long, RATE), (short, RATE), (noise(3200, seed=2), RATE)]
    first, brief, _ = (result.values[0] for result in zoo.embed(clip, sounds))
    for result in (*zoo.embed(clip, [sounds[0]]), *zoo.embed(clip, sounds[::-1])):
        assert abs(np.linalg.norm(result.values[0]) - 1) < 1e-6
        if result.duration == 1.0:
            np.testing.assert_allclose(result.values[0], first, atol=1e-6)
    np.testing.assert_array_equal(first, next(iter(zoo.embed(clip, sounds))).values[0])
    np.testing.assert_allclose(brief, clip.embed(short), atol=1e-6)  # by repetition, as alone
    (windows,) = zoo.embed(clip, [sounds[0]], each="window")
    np.testing.assert_allclose(windows.values[2], clip.embed(long[6400:]), atol=1e-6)
    mean = np.array([3200, 3200, 1600]) @ windows.values
    np.testing.assert_allclose(first, mean / np.linalg.norm(mean), atol=1e-6)
    (frames,) = zoo.embed(clip, [sounds[0]], each="frame")
    assert frames.values.shape[1] == 8 and abs(frames.end[-1] - 1.0) < 0.03
    with pytest.warns(UserWarning, match="hears the first 0.40 s"):
        np.testing.assert_array_equal(clip.embed(long), clip.embed(long[:3200]))


def test_hear_and_another_process_take_it(clip, folder):
    model = zoo.hear.load_model(folder, hop=100.0)
    assert (model.scene_embedding_size, model.timestamp_embedding_size) == (6, 8)
    sounds = noise(2, 4000)
    assert zoo.hear.get_scene_embeddings(sounds, model).shape == (2, 6)
    embeddings, milliseconds = zoo.hear.get_timestamp_embeddings(sounds, model)
    assert embeddings.shape == (*milliseconds.shape, 8)
    copy = pickle.loads(pickle.dumps(clip))
    assert copy.model.tokenizer == clip.model.tokenizer
    np.testing.assert_array_equal(copy.embed_text("dog"), clip.embed_text("dog"))


def test_it_is_thawed_as_it_is_or_as_a_classifier(clip):
    model, _ = clip.thaw(key=jax.random.key(0))
    assert isinstance(model, CLAP) and model.tokenizer == clip.model.tokenizer
    model, state = clip.thaw(labels=("dog", "rain"), key=jax.random.key(0))
    assert isinstance(model, Classifier) and model.network.width == 6
    waves = jnp.asarray(noise(2, 3200))
    logits, _ = jax.jit(jax.vmap(model, (0, None), (0, None), axis_name="batch"))(waves, state)
    assert logits.shape == (2, 2)


# From the shell -------------------------------------------------------------------------------------------------------


def test_tag_and_detect_take_labels_in_words(capsys, folder, sound):
    assert main(["tag", str(sound), "--model", str(folder), "--labels", "dog, rain,siren", "--json"]) == 0
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert {tag["label"] for tag in row["tags"]} == {"dog", "rain", "siren"}
    assert row["model"] == "small_zero_shot" and abs(sum(tag["probability"] for tag in row["tags"]) - 1) < 1e-5
    options = ["--labels", "dog,rain", "--prompt", "{}", "--threshold", "0"]
    assert main(["detect", str(sound), "--model", str(folder), *options]) == 0
    assert re.search(r"0\.00 to 20\.00 s .* dog", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "resnet_esc10", "--labels", "dog"], "has no words, so it takes no --labels"),
        (["--model", "resnet_esc10", "--prompt", "{}"], "give them too, --labels"),
        (["--model", "FOLDER"], "words instead of classes: give labels, --labels"),
        (["--model", "FOLDER", "--labels", "dog,dog"], "each class once"),
        (["--model", "FOLDER", "--labels", "dog", "--prompt", "x"], "got 'x'"),
    ],
)
def test_labels_that_make_no_sense_end_in_a_sentence(capsys, folder, sound, words, message):
    assert main(["tag", str(sound), *(str(folder) if word == "FOLDER" else word for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_the_pages_code_runs(clip, tmp_path, monkeypatch):
    text = (pathlib.Path(pages.ROOT) / "docs" / "zoo.md").read_text()
    (section,) = re.findall(r"^### Words and sounds\n(.*?)^###? ", text, re.DOTALL | re.MULTILINE)
    code = "\n".join(re.findall(r"^    (?!audax-zoo)(.*)$", section, re.MULTILINE))
    assert "embed_text" in code and "zero_shot" in code
    monkeypatch.setattr(zoo, "load", lambda name: clip)
    monkeypatch.chdir(tmp_path)
    names = {"zoo": zoo, "wave": noise(2000), "recordings": [(noise(2000), RATE)]}
    exec(code, names)
    assert names["cosines"].shape == (2,) and len(names["tags"]) == 3
