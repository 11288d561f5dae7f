"""Families of weights: found by their files, and told apart by the keys of a file of weights."""

import ast
import json
import pathlib
import re
import sys

import huggingface_hub.constants
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_convert import ENTRIES, OTHERS, source_shapes

import zoo
from zoo import families
from zoo._create import skeleton
from zoo._foreign import WeightFile
from zoo._leaves import named_leaves
from zoo._load import fit
from zoo._verify import verify

ZOO = pathlib.Path(zoo.__file__).parent
LABELS = "index,mid,display_name\n" + "".join(f"{index},/m/{index},Sound {index}\n" for index in range(527))

# One new file --------------------------------------------------------------------------------------------------------

TOY = '''
"""Toy, a network of one block."""

from zoo import Checkpoint, Entry
from zoo._foreign import Recognition
from zoo._rules import COUNTER, NORM, Rule, dense, hwio

ENTRIES = (
    Entry(
        name="toy_published",
        frontend={"type": "LogMel", "sample_rate": 8000, "bins": 16, "n_fft": 256, "hop_length": 80},
        network={"type": "ResNet", "depths": (1,), "widths": (4,)},
        classes=3,
        task="multilabel",
        window=0.5,
        license="MIT",
        checkpoint=Checkpoint(repo="toy/published", table="toy", file=("body.safetensors", "top.safetensors")),
    ),
)
RULES = {
    "toy": (
        Rule(r"body\\\\.stem", "network.stem.weight", hwio),
        Rule(rf"body\\\\.norm\\\\.{NORM}", r"network.norm.\\\\1"),
        Rule(r"body\\\\.conv(\\\\d)", r"network.stages.0.0.conv\\\\1.weight", hwio),
        Rule(rf"body\\\\.norm(\\\\d)\\\\.{NORM}", r"network.stages.0.0.norm\\\\1.\\\\2"),
        Rule(r"top\\\\.(weight|bias)", r"head.\\\\1"),
    )
}
READS = "the toys"


def describes(config):
    return config.get("toys") == 1


def describe(name, config, read):
    labels = tuple(read("labels.txt").split())
    checkpoint = Checkpoint(repo=name, table="toy")
    return ENTRIES[0].replace(name=name, classes=len(labels), labels=labels, checkpoint=checkpoint)


def recognise(source):
    if "body.stem" in source.shapes:
        return Recognition(ENTRIES[0].replace(classes=source.shapes["top.bias"][0]), RULES["toy"])
    if "conv1" in source.shapes:
        return Recognition(ENTRIES[0], RULES["toy"], files=ENTRIES[0].checkpoint.file)
'''.replace("\\\\", "\\")


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The family in the file toy.py, in a folder beside that of the others; gives the arrays of a model of it."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "toy.py").write_text(TOY)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path / "more")])
    names = {"conv1": (4, 4, 3, 3), "conv2": (4, 4, 3, 3), "stem": (4, 1, 7, 7)}
    for norm in ("norm", "norm1", "norm2"):
        names |= {f"{norm}.{leaf}": (4,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    shapes = {f"body.{name}": shape for name, shape in names.items()} | {"top.weight": (3, 4), "top.bias": (3,)}
    rng = np.random.default_rng(0)
    yield {name: rng.uniform(0.5, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    sys.modules.pop("zoo.families.toy", None)
    vars(families).pop("toy", None)


def is_the_toy(clip, arrays):
    np.testing.assert_array_equal(clip.model.network.stem.weight, arrays["body.stem"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(clip.model.head.bias, arrays["top.bias"])
    running_var = clip.state.get(clip.model.network.stages[0][0].norm2.running_var)
    np.testing.assert_array_equal(running_var, arrays["body.norm2.running_var"])


def test_a_family_in_one_new_file_is_listed_loaded_converted_and_verified(toy, tmp_path, monkeypatch):
    assert zoo.list_models("toy*") == ["toy_published"]
    assert zoo.info("toy_published").license == "MIT"

    folder = tmp_path / "own"  # by its config.json, and a file beside it that is not JSON
    folder.mkdir()
    (folder / "config.json").write_text('{"toys": 1}')
    (folder / "labels.txt").write_text("a b c")
    save_file(toy, folder / "model.safetensors")
    is_the_toy(zoo.load(folder), toy)
    assert zoo.info(folder).labels == ("a", "b", "c")
    report = verify(str(folder))
    assert (report.fault, report.checks) == (None, ["arrays"])

    save_file({f"state_dict.{key}": array for key, array in toy.items()}, tmp_path / "file.safetensors")
    made = zoo.convert(tmp_path / "file.safetensors", tmp_path / "made", labels=("a", "b", "c"))
    is_the_toy(zoo.load(made, verify=True), toy)
    assert zoo.info(made).labels == ("a", "b", "c")
    assert verify(str(made)).checks == ["arrays", "golden output"]

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repo = tmp_path / "hub" / "models--toy--published"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("1" * 40)
    (repo / "snapshots" / ("1" * 40)).mkdir(parents=True)
    for stem in ("body", "top"):  # two files
        part = {key.removeprefix(f"{stem}."): array for key, array in toy.items() if key.startswith(stem)}
        save_file(part, repo / "snapshots" / ("1" * 40) / f"{stem}.safetensors")
    is_the_toy(zoo.load("toy_published"), toy)
    parts = repo / "snapshots" / ("1" * 40)
    is_the_toy(zoo.load(zoo.convert(parts / "body.safetensors", tmp_path / "both")), toy)

    config = {"model_type": "unheard-of"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"the kind 'unheard-of': the zoo reads .*, the toys, .*and its own"):
        zoo.info(folder)


def test_a_file_that_lacks_what_its_family_has_is_told(toy, tmp_path):
    del toy["top.bias"]
    save_file(toy, tmp_path / "file.safetensors")
    with pytest.raises(ValueError, match=r"file\.safetensors is not a whole toy checkpoint: it has no 'top\.bias'\.$"):
        zoo.convert(tmp_path / "file.safetensors", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_no_code_but_its_file_names_a_family():
    names = [family.__name__.rpartition(".")[2] for family in families.modules()]
    assert {"ast", "ced", "panns", "timm", "topel"} <= set(names)
    names = "|".join(name for name in names if name != "audax")  # as this project is called
    for path in sorted(ZOO.glob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):  # docstrings may name networks
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value = ast.Constant(None)
        code = ast.unparse(tree)
        assert re.findall(rf"(?i)(?<![\w/])_?(?:{names})(?:_\w+)?(?![\w/])|\w+ForAudioClassification", code) == [], (
            path.name
        )


# The keys of files ---------------------------------------------------------------------------------------------------

ELSEWHERE = ("timm_efficientnet", "ecapa")  # in none, and in tests/test_ecapa.py
RECOGNISED = [entry for entry in (*ENTRIES, *OTHERS) if entry.checkpoint.table not in ELSEWHERE]


@pytest.mark.parametrize("entry", RECOGNISED, ids=lambda entry: entry.name)
def test_a_published_file_is_recognised_by_one_family_and_fits(entry):
    shapes = source_shapes(entry)
    if entry.checkpoint.table.startswith(("panns", "beats")):
        shapes = {re.sub(r"^(backbone|model)\.", "", key): shape for key, shape in shapes.items()}
    source = WeightFile(pathlib.Path("file"), "safetensors", {}, shapes)
    (recognised,) = filter(None, (family.recognise(source) for family in families.having("recognise")))
    fit(recognised.entry, shapes, "file", recognised.rules)  # every array, and no other
    ours, published = skeleton(recognised.entry)[0], skeleton(entry)[0]
    assert ours.frontend == published.frontend
    assert jax.tree.structure(ours.network) == jax.tree.structure(published.network)  # its static numbers, too
    for field in ("classes", "task", "window"):
        assert getattr(recognised.entry, field) == getattr(entry, field)


def converted(tmp_path, arrays, **options):
    save_file(arrays, tmp_path / "file.safetensors")
    return zoo.convert(tmp_path / "file.safetensors", tmp_path / "made", **options)


def exported(entry):
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
    arrays = exported(entry)
    folder = converted(tmp_path, ast_file(arrays), window=0.4, labels=entry.labels)
    loaded = load_file(folder / "model.safetensors")
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array, err_msg=name)
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
    arrays = exported(entry)
    folder = converted(tmp_path, ced_file(arrays), window=0.5, task="multilabel")
    loaded = load_file(folder / "model.safetensors")
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array, err_msg=name)
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
    folder = converted(tmp_path, file, **options, frontend={"bins": 64})
    entry = zoo.info(folder)
    assert (entry.name, entry.sample_rate, entry.window, entry.labels) == ("made", 22050, 0.5, ("a", "b", "c"))
    assert (entry.task, entry.license, entry.frontend["bins"]) == ("multilabel", None, 64)
    assert (entry.network["depths"], entry.network["widths"]) == ((2, 1, 1, 1), (4, 8, 16, 32))
    loaded = load_file(folder / "model.safetensors")
    stem = arrays["conv1.weight"].sum(axis=1, keepdims=True).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(loaded["network.stem.weight"], stem)
    np.testing.assert_array_equal(loaded["head.bias"], arrays["fc.bias"])
    running = loaded["network.stages.1.0.shortcut.norm.running_mean"]
    np.testing.assert_array_equal(running, arrays["layer2.0.downsample.1.running_mean"])
    assert zoo.load(folder, verify=True).labels == ("a", "b", "c")


def test_a_whole_frontend_may_be_given(tmp_path):
    frontend = {"type": "LogMel", "sample_rate": 8000, "bins": 40, "n_fft": 256, "hop_length": 80}
    entry = zoo.info(converted(tmp_path, torch_resnet(), frontend=frontend, window=0.5))
    assert entry.frontend == frontend and entry.sample_rate == 8000


# PANNs: by shapes alone, for they are large


def panns(change=lambda key, shape: shape):
    (published,) = (each for each in ENTRIES if each.name == "panns_cnn14_audioset")
    return {key.removeprefix("backbone."): change(key, shape) for key, shape in source_shapes(published).items()}


def recognised(shapes, name="file.pth", **options):
    return families.recognise(WeightFile(pathlib.Path(name), "torch", {}, shapes, **options))


@pytest.mark.parametrize(
    "height, given, rate, numbers",
    [
        (513, None, 32000, (1024, 320, 14000.0)),
        (257, None, 16000, (512, 160, 8000.0)),
        (129, None, 8000, (256, 80, 4000.0)),
        (None, 16000, 16000, (512, 160, 8000.0)),
        (None, None, 32000, (1024, 320, 14000.0)),
    ],
)
def test_a_panns_file_tells_its_sample_rate_by_its_filterbank(height, given, rate, numbers):
    shapes = panns()
    del shapes["logmel_extractor.melW"]
    if height is not None:
        shapes["logmel_extractor.melW"] = (height, 64)
    frontend = recognised(shapes, sample_rate=given).entry.frontend
    assert frontend["sample_rate"] == rate
    assert tuple(frontend[name] for name in ("n_fft", "hop_length", "f_max")) == numbers


def test_a_panns_of_other_classes_is_nobodys_and_one_with_scores_over_time_is_refused():
    own = panns(lambda key, shape: tuple(10 if size == 527 else size for size in shape))
    entry = recognised(own).entry
    assert (entry.classes, entry.task, entry.license, entry.checkpoint) == (10, "multiclass", None, None)
    assert recognised(panns()).entry.license == "CC-BY-4.0"
    with pytest.raises(ValueError, match="is a PANNs of the kind DecisionLevel by its name"):
        recognised(panns(), "Cnn14_DecisionLevelMax_mAP=0.385.pth")


# Labels, and what is refused -----------------------------------------------------------------------------------------


def tagger():
    """The file of an AudioSet tagger that is small."""
    frontend = {"type": "ast_fbank", "sample_rate": 16000, "frames": 40}
    model = {"type": "Classifier", "norm": 1e-5}
    return ast_file(exported(zoo.Entry("x", frontend, AST, 527, "multilabel", 0.4, model=model)))


def test_audiosets_labels_come_from_the_hubs_cache_or_are_missed_with_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    file = tagger()
    with pytest.warns(UserWarning, match=r"made is written without labels .* or give labels=\[\.\.\.\]\.$"):
        folder = converted(tmp_path, file, window=0.4)
    assert zoo.info(folder).labels == ()
    repo = tmp_path / "hub" / "models--topel--ConvNeXt-Tiny-AT"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("1" * 40)
    (repo / "snapshots" / ("1" * 40)).mkdir(parents=True)
    (repo / "snapshots" / ("1" * 40) / "class_labels_indices.csv").write_text(LABELS)
    entry = zoo.info(converted(tmp_path, file, window=0.4))
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
        converted(tmp_path, arrays, **options)
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")
    assert not (tmp_path / "made").exists()


def test_positions_that_no_stride_gives_are_told(tmp_path):
    shapes = {
        "v.pos_embed": (1, 2 + 37, 64),
        "v.patch_embed.proj.weight": (64, 1, 16, 16),
        "mlp_head.1.weight": (3, 64),
    }
    with pytest.raises(ValueError, match=r"37 positions, which are not 128 bins at a stride of 10: give"):
        recognised(shapes | {"v.pos_embed": (1, 2 + 37, 64)})
    with pytest.raises(ValueError, match="is not a whole ast checkpoint: it has no"):
        recognised(shapes | {"v.pos_embed": (1, 2 + 36, 64)})
