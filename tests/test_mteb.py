"""MTEB's encoder: what it makes of a loader's sounds and texts, and a task of the suite itself, if it is installed."""

import sys
import types

import jax
import numpy as np
import pytest

import zoo
from zoo._fingerprint import fingerprint
from zoo.mteb import MtebModel

RATE = 8000


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)


class Loader:
    """A torch DataLoader's attributes, of rows in batches of two."""

    def __init__(self, rows, columns=None):
        self.rows, self.collate_fn = rows, None
        self.dataset = types.SimpleNamespace(features=dict.fromkeys(columns or rows[0]))

    def __iter__(self):
        return (self.collate_fn(self.rows[start : start + 2]) for start in range(0, len(self.rows), 2))


class Decoder:
    """A decoder of torchcodec: it has keys, and is no mapping."""

    def __init__(self, array, rate):
        self.values = {"array": array, "sampling_rate": rate}

    def __getitem__(self, name):
        return self.values[name]


class Words:
    """A model with words, of which a text's embedding is its length."""

    def __init__(self, clip):
        self.entry, self.model = clip.entry, types.SimpleNamespace(text=object())

    def embed_text(self, texts):
        return np.array([[len(text)] * 3 for text in texts], np.float32)


@pytest.fixture(scope="module")
def clip():
    return zoo.load("resnet_fsdd")


def test_sounds_of_any_length_and_rate_are_what_the_engine_makes_of_them(clip):
    waves = [(noise(5000), RATE), (noise(30000, seed=1), RATE), (noise(9000, seed=2), 16000)]
    stereo = np.stack([noise(6000, seed=3), noise(6000, seed=4)])
    audio = [{"array": wave, "sampling_rate": rate} for wave, rate in waves]
    audio += [Decoder(*waves[0]), {"array": stereo, "sampling_rate": RATE}, {"path": zoo.example(), "bytes": None}]
    audio += [{"array": waves[0][0].tolist(), "sampling_rate": RATE}]
    rows = [{"audio": each, "label": 0} for each in audio]
    embeddings = MtebModel(clip, None).encode(Loader(rows), task_metadata=None, hf_split="test", batch_size=2)
    sounds = [*waves, waves[0], (stereo, RATE), zoo.example(), waves[0]]
    expected = [result.values[0] for result in zoo.embed(clip, sounds)]
    np.testing.assert_array_equal(embeddings, expected)
    assert embeddings.shape == (7, clip.model.network.width) and embeddings.dtype == np.float32
    assert np.abs(embeddings[0] - embeddings[1]).max() > 1e-3


def test_texts_are_those_of_a_model_with_words(clip, monkeypatch):
    rows = [{"text": text} for text in ("a", "abc", "ab")]
    embeddings = MtebModel(Words(clip), None).encode(Loader(rows))
    np.testing.assert_array_equal(embeddings, [[1] * 3, [3] * 3, [2] * 3])
    result = types.SimpleNamespace(values=np.ones((1, 3), np.float32))
    monkeypatch.setattr("zoo.mteb.embed", lambda clip, sounds: (result for _ in sounds))
    both = [row | {"audio": {"array": noise(10), "sampling_rate": RATE}} for row in rows]
    np.testing.assert_array_equal(MtebModel(Words(clip), None).encode(Loader(both)), 1 + embeddings)


@pytest.mark.parametrize(
    "row, fault",
    [
        ({"image": 0, "label": 1}, "takes sounds, and the task has image, label: take a task of audio"),
        ({"text": "a"}, "has no words for the texts of this task: take a task with audio only, or a model with words"),
    ],
)
def test_other_tasks_are_refused_in_a_sentence(clip, row, fault):
    with pytest.raises(ValueError, match=fault) as raised:
        MtebModel(clip, None).encode(Loader([row]))
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_without_mteb_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(ModuleNotFoundError, match=r"zoo\.mteb needs mteb.*: pip install 'mteb\[audio\]>=2\.8'"):
        zoo.mteb.load_model()


def test_a_fingerprint_is_of_the_weights(clip):
    assert fingerprint(clip) == fingerprint(zoo.load("resnet_fsdd"))
    model, state = clip.thaw(key=jax.random.key(0))
    other = zoo.Pretrained(model, state, clip.entry)
    assert fingerprint(other) == fingerprint(clip)  # training mode changes no number
    prints = {fingerprint(zoo.load(name)) for name in ("resnet_fsdd", "resnet_esc10")}
    assert len(prints) == 2 and all(len(each) == 8 for each in prints)


def test_a_task_of_mteb_on_spoken_digits(shared):
    mteb = pytest.importorskip("mteb", reason="MTEB is not installed: pip install 'mteb[audio]>=2.8'")
    from datasets import Dataset, DatasetDict
    from mteb.abstasks import AbsTaskClassification
    from mteb.abstasks.task_metadata import TaskMetadata

    def rows(indices):
        return [(digit, speaker, index) for digit in range(4) for speaker in ("george", "theo") for index in indices]

    def split(indices):
        recordings = shared / "data" / "fsdd" / "recordings"
        paths = [recordings / f"{digit}_{speaker}_{index}.wav" for digit, speaker, index in rows(indices)]
        audio = [{"array": zoo.read(path, RATE), "sampling_rate": RATE} for path in paths]
        return Dataset.from_dict({"audio": audio, "label": [digit for digit, _, _ in rows(indices)]})

    class Digits(AbsTaskClassification):
        metadata = TaskMetadata(
            name="SpokenDigits",
            description="A few digits of FSDD.",
            reference=None,
            dataset={"path": "none", "revision": "none"},
            type="AudioClassification",
            category="a2c",
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="accuracy",
            date=None,
            domains=None,
            task_subtypes=None,
            license=None,
            annotations_creators=None,
            dialect=None,
            modalities=["audio"],
            sample_creation=None,
            bibtex_citation=None,
        )
        input_column_name, label_column_name, n_experiments, samples_per_label = "audio", "label", 2, 4

        def load_data(self, **options):
            self.dataset, self.data_loaded = DatasetDict(train=split(range(10, 13)), test=split(range(13, 15))), True

    model = zoo.mteb.load_model("resnet_fsdd")
    meta = model.mteb_model_meta
    assert (meta.name, meta.modalities, meta.embed_dim) == ("audax-eqx/resnet_fsdd", ["audio"], 128)
    assert meta.revision == fingerprint(model.clip)
    result = mteb.evaluate(model, Digits(), cache=None, show_progress_bar=False, co2_tracker=False)
    assert result.task_results[0].get_score() > 0.9  # 0.25 by chance
