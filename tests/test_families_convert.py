"""Files of weights of other libraries become folders of the zoo, array by array, or are refused in a sentence."""

import re

import huggingface_hub.constants
import jax
import numpy as np
import pytest
from hub_cache import make_snapshot
from safetensors.numpy import load_file, save_file

import zoo
from zoo import families
from zoo._create import skeleton
from zoo._leaves import named_leaves

LABELS = "index,mid,display_name\n" + "".join(f"{index},/m/{index},Sound {index}\n" for index in range(527))


def convert(tmp_path, arrays, **options):
    save_file(arrays, tmp_path / "file.safetensors")
    return zoo.convert(tmp_path / "file.safetensors", tmp_path / "made", **options)


def export(entry):
    """The arrays of a model of this entry with random weights, by our names."""
    leaves = named_leaves(*zoo.create(entry, key=jax.random.key(0)))
    return {name: np.asarray(leaf) + np.float32(0.01) for name, leaf in leaves.items()}


AST = {"type": "AST", "width": 64, "depth": 2, "heads": 1, "frames": 40, "eps": 1e-6, "mlp_width": 32}


def ast_file(arrays):
    """As the paper's code names and lays them out, with ImageNet's heads, which are left in its files."""
    file = {"module.v.head.weight": np.zeros((5, 64), np.float32), "module.v.head_dist.bias": np.zeros(5, np.float32)}
    names = {"attention_norm": "norm1", "mlp_norm": "norm2", "attention.output": "attn.proj"}
    names |= {"expand": "mlp.fc1", "contract": "mlp.fc2"}
    for name, array in arrays.items():
        if match := re.fullmatch(r"network\.blocks\.(\d)\.(.*)\.(weight|bias)", name):
            if match[2] in names:
                file[f"module.v.blocks.{match[1]}.{names[match[2]]}.{match[3]}"] = array
        elif name == "network.position_embedding":
            file["module.v.pos_embed"] = array[None]
        elif name in ("network.class_token", "network.distillation_token"):
            file[f"module.v.{'cls' if 'class' in name else 'dist'}_token"] = array[None, None]
        elif name == "network.patchify.weight":
            file["module.v.patch_embed.proj.weight"] = array.transpose(3, 2, 1, 0)
        else:
            path = {"network.patchify": "v.patch_embed.proj", "network.norm": "v.norm"}
            path |= {"norm": "mlp_head.0", "head": "mlp_head.1"}
            file[f"module.{path[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}"] = array
    for block in range(2):
        for leaf in ("weight", "bias"):
            parts = [arrays[f"network.blocks.{block}.attention.{part}.{leaf}"] for part in ("query", "key", "value")]
            file[f"module.v.blocks.{block}.attn.qkv.{leaf}"] = np.concatenate(parts)
    return {key: np.ascontiguousarray(array) for key, array in file.items()}


def test_the_papers_ast_converts_array_by_array(tmp_path):
    frontend = {"type": "ast_fbank", "sample_rate": 16000, "frames": 40}
    model = {"type": "Classifier", "norm": 1e-5}
    entry = zoo.Entry("x", frontend, AST, 3, "multiclass", 0.4, labels=("a", "b", "c"), model=model)
    arrays = export(entry)
    folder = convert(tmp_path, ast_file(arrays), window=0.4, labels=entry.labels)
    weights = load_file(folder / "model.safetensors")
    assert weights.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(weights[name], array, err_msg=name)
    ours = zoo.info(folder)
    assert skeleton(ours)[0] == skeleton(entry)[0]
    assert (ours.window, ours.labels, ours.task, ours.metrics) == (0.4, ("a", "b", "c"), "multiclass", ())
    rules = families.rules("ast_authors")
    keys = [key.removeprefix("module.") for key in ast_file(arrays)]
    assert all(any(re.fullmatch(rule.pattern, key) for key in keys) for rule in rules)


def ced_file(arrays):
    """As CED's training code names them, with its frontend's tables."""
    names = {"attention_norm": "norm1", "mlp_norm": "norm2", "attention.qkv": "attn.qkv"}
    names |= {"attention.output": "attn.proj", "expand": "mlp.fc1", "contract": "mlp.fc2"}
    path = {"network.patchify": "patch_embed.proj", "network.norm": "norm", "network.input_norm": "init_bn.1"}
    path |= {"norm": "outputlayer.0", "head": "outputlayer.1"}
    file = {"front_end.0.mel_scale.fb": np.zeros((257, 64), np.float32), "init_bn.1.num_batches_tracked": np.array(7)}
    for name, array in arrays.items():
        if name == "network.time_embedding":
            file["time_pos_embed"] = array.T[None, :, None, :]
        elif name == "network.freq_embedding":
            file["freq_pos_embed"] = array.T[None, :, :, None]
        elif match := re.fullmatch(r"network\.blocks\.(\d)\.(.*)\.(weight|bias)", name):
            file[f"blocks.{match[1]}.{names[match[2]]}.{match[3]}"] = array
        else:
            array = array.transpose(3, 2, 1, 0) if name == "network.patchify.weight" else array
            file[f"{path[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}"] = array
    return {key: np.ascontiguousarray(array) for key, array in file.items()}


def test_a_ced_of_its_training_code_converts_array_by_array(tmp_path):
    frontend = dict(zoo.info("ced_tiny_audioset").frontend) | {"bins": 32}
    network = {"type": "CED", "width": 64, "depth": 1, "heads": 1, "bins": 32, "frames": 48, "mlp_width": 80}
    entry = zoo.Entry("x", frontend, network, 4, "multilabel", 0.5, model={"type": "Classifier", "norm": 1e-5})
    arrays = export(entry)
    folder = convert(tmp_path, ced_file(arrays), window=0.5, task="multilabel")
    weights = load_file(folder / "model.safetensors")
    assert weights.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(weights[name], array, err_msg=name)
    assert skeleton(zoo.info(folder))[0] == skeleton(entry)[0]
    rules = families.rules("ced_authors")
    assert all(any(re.fullmatch(rule.pattern, key) for key in ced_file(arrays)) for rule in rules)


def torch_resnet(classes=3, depths=(1, 1, 1, 1), width=4):
    """As torchvision names them, basic blocks."""
    shapes, inputs = {"conv1.weight": (width, 3, 7, 7), "fc.weight": (classes, 8 * width), "fc.bias": (classes,)}, width
    norms = {"bn1": width}
    for stage, depth in enumerate(depths, 1):
        for block in range(depth):
            path, outputs = f"layer{stage}.{block}", width * 2 ** (stage - 1)
            shapes[f"{path}.conv1.weight"] = (outputs, inputs, 3, 3)
            shapes[f"{path}.conv2.weight"] = (outputs, outputs, 3, 3)
            norms |= {f"{path}.bn1": outputs, f"{path}.bn2": outputs}
            if inputs != outputs:
                shapes[f"{path}.downsample.0.weight"] = (outputs, inputs, 1, 1)
                norms[f"{path}.downsample.1"] = outputs
            inputs = outputs
    for norm, size in norms.items():
        shapes |= {f"{norm}.{leaf}": (size,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    rng = np.random.default_rng(1)
    return {key: rng.uniform(0.1, 0.5, shape).astype(np.float32) for key, shape in shapes.items()}


def test_a_resnet_of_any_size_converts_with_what_only_its_owner_knows(tmp_path):
    arrays = torch_resnet(depths=(2, 1, 1, 1))
    file = {f"state_dict.model.{key}": array for key, array in arrays.items()} | {"epoch": np.array(3)}
    options = {"sample_rate": 22050, "window": 0.5, "labels": ("a", "b", "c"), "task": "multilabel"}
    folder = convert(tmp_path, file, **options, frontend={"bins": 64})
    entry = zoo.info(folder)
    assert (entry.name, entry.sample_rate, entry.window, entry.labels) == ("made", 22050, 0.5, ("a", "b", "c"))
    assert (entry.task, entry.license, entry.frontend["bins"]) == ("multilabel", None, 64)
    assert (entry.network["depths"], entry.network["widths"]) == ((2, 1, 1, 1), (4, 8, 16, 32))
    weights = load_file(folder / "model.safetensors")
    stem = arrays["conv1.weight"].sum(axis=1, keepdims=True).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(weights["network.stem.weight"], stem)
    np.testing.assert_array_equal(weights["head.bias"], arrays["fc.bias"])
    running = weights["network.stages.1.0.shortcut.norm.running_mean"]
    np.testing.assert_array_equal(running, arrays["layer2.0.downsample.1.running_mean"])
    assert zoo.load(folder, verify=True).labels == ("a", "b", "c")


def test_a_whole_frontend_may_be_given(tmp_path):
    frontend = {"type": "LogMel", "sample_rate": 8000, "bins": 40, "n_fft": 256, "hop_length": 80}
    entry = zoo.info(convert(tmp_path, torch_resnet(), frontend=frontend, window=0.5))
    assert entry.frontend == frontend and entry.sample_rate == 8000


def tagger():
    """The file of an AudioSet tagger that is small."""
    frontend = {"type": "ast_fbank", "sample_rate": 16000, "frames": 40}
    model = {"type": "Classifier", "norm": 1e-5}
    return ast_file(export(zoo.Entry("x", frontend, AST, 527, "multilabel", 0.4, model=model)))


def test_audiosets_labels_come_from_the_hubs_cache_or_are_missed_with_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    file = tagger()
    with pytest.warns(UserWarning, match=r"made is written without labels .* or give labels=\[\.\.\.\]\.$"):
        folder = convert(tmp_path, file, window=0.4)
    assert zoo.info(folder).labels == ()
    snapshot = make_snapshot(tmp_path / "hub", "topel/ConvNeXt-Tiny-AT")
    (snapshot / "class_labels_indices.csv").write_text(LABELS)
    entry = zoo.info(convert(tmp_path, file, window=0.4))
    assert entry.labels == tuple(f"Sound {index}" for index in range(527))
    assert (entry.task, entry.license, entry.metrics) == ("multilabel", "BSD-3-Clause", ())


@pytest.mark.parametrize(
    "change, options, fault",
    [
        (
            {"fc.weight": None},
            {},
            r"holds \d+ arrays \(.*\), whose keys are of no model that the zoo recognises",
        ),
        ({"fc.bias": None}, {}, r"file\.safetensors does not fit the model: head\.bias is missing"),
        ({"extra": np.zeros(2, np.float32)}, {}, "extra matches 0 rules, so no array of the model is made of it"),
        ({}, {"model": "SimCLR"}, "holds a Classifier, not the SimCLR that `model` names"),
        ({}, {"labels": ("a",)}, "3 classes and 1 labels"),
        ({}, {"labels": ("a", "b", "a")}, "labels name each class once, got a several times"),
        (
            {"fc.bias": np.full(3, np.nan, np.float32)},
            {},
            r"file\.safetensors holds NaN or infinite numbers, in head\.b",
        ),
        ({}, {"frontend": {"bins": 10**9}}, r"file\.safetensors asks for bins 1e\+09"),
        ({}, {"window": 0.0}, "a window of some seconds"),
        ({}, {"frontend": {"octaves": 3}}, "octaves"),
        ({}, {"network": {"depths": (9, 9, 9, 9)}}, "is missing"),
        ({}, {"sample_rate": 8000, "frontend": {"sample_rate": 16000}}, "at 16000 Hz, got sample_rate=8000: leave"),
    ],
)
def test_what_does_not_go_together_is_told_in_a_sentence(tmp_path, change, options, fault):
    arrays = {key: array for key, array in (torch_resnet() | change).items() if array is not None}
    with pytest.raises(ValueError, match=fault) as raised:
        convert(tmp_path, arrays, **options)
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")
    assert not (tmp_path / "made").exists()
