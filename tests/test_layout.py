"""Models as transformers reads them, and saves that are whole at any moment."""

import functools
import json
import os
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import error
from small import FBANK, NETWORKS, SPEECH, TRANSFORMER, entry

import zoo
from zoo._files import CONFIG, FILES, SAVED, STAGING, WEIGHTS
from zoo._inverse import keys

CED_MEL = {"type": "torchaudio_log_mel", "sample_rate": 16000, "n_fft": 512, "hop_length": 160, "top_db": 120.0}
SPEECH_LAYER = SPEECH | {"norm": "layer"}
HUBERT = {"paper": "https://arxiv.org/abs/2106.07447"}
WHISPER = {"type": "Whisper", **TRANSFORMER, "steps": 50, "pool": "all"}
small = {each.name: each for each in NETWORKS}
MODELS = {
    "ast": small["ast"].replace(labels=("a", "b", "c", "d", "e")),
    "ced": small["ced"].replace(frontend=CED_MEL),
    "ced_multiclass": small["ced"].replace(frontend=CED_MEL, task="multiclass"),
    "wav2vec2": small["wav2vec2"].replace(task="multiclass"),
    "hubert_large": small["hubert_large"].replace(**HUBERT),
    "wavlm": small["wavlm"],
    "data2vec": small["data2vec"].replace(frontend=SPEECH_LAYER),
    "weighted": small["weighted"],
    "x_vector": small["x_vector"].replace(model={"type": "Encoder", "outputs": 8}),
    "whisper": entry(
        "whisper", {"type": "WhisperLogMel", "sample_rate": 16000, "total_frames": 100}, WHISPER, window=1.0
    ),
}
CLASSES = {
    "ast": "ASTForAudioClassification",
    "wav2vec2": "Wav2Vec2ForSequenceClassification",
    "hubert_large": "HubertModel",
    "wavlm": "WavLMModel",
    "data2vec": "Data2VecAudioModel",
    "weighted": "Wav2Vec2ForSequenceClassification",
    "x_vector": "Wav2Vec2ForXVector",
    "whisper": "WhisperForAudioClassification",
}


@functools.cache
def clip_of(name):
    """In inference mode, with weights that are all large enough to count."""
    model, state = zoo.create(MODELS[name], key=jax.random.key(0))
    random = np.random.default_rng(0)
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    arrays = jax.tree.map(lambda x: x + jnp.asarray(0.1 * random.standard_normal(x.shape), x.dtype), arrays)
    return zoo.Pretrained(eqx.nn.inference_mode(eqx.combine(arrays, rest)), state, MODELS[name])


def noise(clip):
    samples = round(clip.entry.window * clip.sample_rate)
    return np.random.default_rng(1).uniform(-0.5, 0.5, samples).astype(np.float32)


def saved(name, folder, **options):
    clip = clip_of(name)
    zoo.save(folder, clip.model, clip.state, clip.entry, layout="transformers", **options)
    return clip


@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_is_read_again(name, tmp_path):
    clip = saved(name, tmp_path / "model")
    again = zoo.load(tmp_path / "model", verify=True)
    assert again.entry.checkpoint is not None and error(again(noise(clip)), clip(noise(clip))) < 1e-6
    assert (again.entry.task, again.entry.classes) == (clip.entry.task, clip.entry.classes)
    assert again.labels[0] in ("a", "LABEL_0") if clip.entry.classifies else not again.entry.labels


@pytest.mark.parametrize("name", CLASSES)
def test_transformers_reads_it(name, tmp_path):
    torch = pytest.importorskip("torch", reason="transformers needs torch")
    transformers = pytest.importorskip("transformers", reason="pip install transformers")
    clip = saved(name, tmp_path / "model")
    config = json.loads((tmp_path / "model" / CONFIG).read_text())
    assert config["architectures"] == [CLASSES[name]]
    extract = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "model")
    reader = getattr(transformers, CLASSES[name])
    model, report = reader.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report["unexpected_keys"] and not report["mismatched_keys"]
    assert {key.rpartition(".")[2] for key in report["missing_keys"]} <= {"masked_spec_embed", "weight"}
    inputs = extract(noise(clip), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        outputs = model.eval()(**inputs)
    theirs = outputs.logits[0] if "logits" in outputs else outputs.last_hidden_state[0].mean(0)
    assert error(clip(noise(clip)), theirs.numpy()) < 1e-5


def test_a_new_head_goes_back_to_the_world(tmp_path):
    """`thaw` gives a head without transformers' projection; what is written has one that changes nothing."""
    thawed = clip_of("wavlm").thaw(labels=("rain", "clock"), key=jax.random.key(1))
    zoo.save(tmp_path / "model", *thawed, thawed.entry, layout="transformers")
    config = json.loads((tmp_path / "model" / CONFIG).read_text())
    assert config["architectures"] == ["WavLMForSequenceClassification"] and config["classifier_proj_size"] == 16
    assert config["id2label"] == {"0": "rain", "1": "clock"}
    clip = zoo.Pretrained(eqx.nn.inference_mode(thawed[0]), thawed[1], thawed.entry)
    again = zoo.load(tmp_path / "model")
    assert again.labels == ("rain", "clock") and error(again(noise(clip)), clip(noise(clip))) < 1e-6


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (small["resnet"], "transformers has no ResNet behind a LogMel, .* ast, ced, speech, whisper"),
        (small["whisper"], "no Whisper without a decoder"),
        (small["ast"].replace(frontend=FBANK | {"frames": 48, "gain": 2.0}), "an AST only with the gain 1.0"),
        (small["ast"].replace(model={"type": "Classifier", "norm": 1e-5}), "an AST only with the norm 1e-12"),
    ],
)
def test_what_transformers_does_not_have_is_told(model, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        zoo.save(tmp_path / "model", *zoo.create(model, key=jax.random.key(0)), model, layout="transformers")
    assert not (tmp_path / "model").exists()


def test_keys_of_a_pattern():
    assert list(keys(r"a\.(\d+)\.(weight|bias)")) == [r"a.\1.\2"]
    pattern = r"(?:(?:x|y)\.)?(\d+)\.(?:v|w\.z)"
    assert list(keys(pattern)) == [r"x.\1.v", r"x.\1.w.z", r"y.\1.v", r"y.\1.w.z", r"\1.v", r"\1.w.z"]


# Saves ----------------------------------------------------------------------------------------------------------------


def test_the_card_says_what_float16_costs(tmp_path):
    clip = clip_of("ast")
    zoo.save(tmp_path / "half", clip.model, clip.state, clip.entry, dtype="float16")
    zoo.save(tmp_path / "whole", clip.model, clip.state, clip.entry)
    sentence = "They are rounded to float16: the golden output differs by"
    half, whole = ((tmp_path / name / "README.md").read_text() for name in ("half", "whole"))
    assert sentence in half and sentence not in whole
    stated = float(half.partition(sentence)[2].split()[0])
    outputs = [zoo.arrays(tmp_path / name / "golden.safetensors")["output"] for name in ("half", "whole")]
    assert stated > 0 and stated == pytest.approx(error(*outputs), rel=0.1)


KILLED = """
import os, pathlib, shutil, signal, sys
import numpy as np
from zoo import _save

folder, step = pathlib.Path(sys.argv[1]), 0

def until(last):
    # Every step that a save takes in the file system counts, and the last one is followed by SIGKILL.
    def counted(function):
        def run(*arguments, **keywords):
            global step
            value = function(*arguments, **keywords)
            step += 1
            if step == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return value
        return run
    for name in ("replace", "rename", "write_text", "mkdir", "chmod", "rmdir"):
        setattr(pathlib.Path, name, counted(getattr(pathlib.Path, name)))
    _save.write, shutil.rmtree = counted(_save.write), counted(shutil.rmtree)

def save(which, large):
    texts = {file: which for file in ("config.json", "preprocessor_config.json", "README.md")}
    arrays = {"x": np.full(large, ord(which), np.float32)}
    tensors = {file: arrays for file in ("model.safetensors", "golden.safetensors")}
    _save._write(folder, texts, tensors, "jax")

for last in range(1, 100):
    shutil.rmtree(folder, ignore_errors=True)
    save("A", 10)
    if (child := os.fork()) == 0:
        until(last)
        save("B", 20)
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    shutil.copytree(folder, f"{folder}_{last}")
    if not killed:
        break
"""


def contents(folder):
    """What each file of a model's folder says, as the zoo reads it: A or B."""
    from zoo._files import existing

    texts = [existing(folder, file).read_text() for file in FILES if not file.endswith(".safetensors")]
    arrays = [zoo.arrays(existing(folder, file))["x"] for file in FILES if file.endswith(".safetensors")]
    return {*texts, *(chr(int(array[0])) for array in arrays)}, {len(array) for array in arrays}


def test_a_save_killed_at_any_step_leaves_the_old_model_or_the_new(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "model"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [contents(folder) for folder in sorted(tmp_path.glob("model_*"), key=lambda path: int(path.name[6:]))]
    assert len(found) > 12 and all(each in (({"A"}, {10}), ({"B"}, {20})) for each in found)
    switch = found.index(({"B"}, {20}))
    assert 0 < switch < len(found) - 4 and all(each == ({"B"}, {20}) for each in found[switch:])
    assert sorted(os.listdir(tmp_path / "model")) == sorted(FILES)


def test_a_model_whose_save_was_killed_loads_and_is_saved_again(tmp_path):
    folder, clip = tmp_path / "model", zoo.load("resnet_fsdd")
    zoo.save(folder, clip.model, clip.state, clip.entry)
    (folder / SAVED).mkdir()
    for file in FILES:
        (folder / file).rename(folder / SAVED / file)
    (folder / CONFIG).write_text("of the model before")
    (folder / STAGING).mkdir()
    (folder / STAGING / WEIGHTS).write_text("of a save before that")
    assert zoo.load(folder, verify=True).entry == clip.entry
    zoo.save(folder, clip.model, clip.state, clip.entry)
    assert sorted(os.listdir(folder)) == sorted(FILES) and zoo.load(folder).entry == clip.entry


def test_other_files_of_the_folder_stay(tmp_path):
    clip = zoo.load("resnet_fsdd")
    (tmp_path / "notes.txt").write_text("mine")
    zoo.save(tmp_path, clip.model, clip.state, clip.entry)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_published_model_has_its_exports():
    clip = zoo.load("resnet_fsdd")
    publish = functools.partial(zoo.publish, "user/mine", clip.model, clip.state, clip.entry, dry_run=True)
    sizes = {line.split()[0]: line.split()[1] for line in publish(exports=("stablehlo",)).splitlines()[1:]}
    assert set(sizes) == {*FILES, "model.stablehlo"} and int(sizes["model.stablehlo"].replace(",", "")) > 1e6
    for exports in (("torch",), "onnx"):
        with pytest.raises(ValueError, match="exports is a list of 'stablehlo' and 'onnx'"):
            publish(exports=exports)
