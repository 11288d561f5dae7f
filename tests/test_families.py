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
from hub_cache import make_snapshot
from safetensors.numpy import save_file
from test_convert import ENTRIES, OTHERS, source_shapes

import zoo
from zoo import families
from zoo._create import skeleton
from zoo._foreign import WeightFile
from zoo._load import fit
from zoo._verify import verify

ZOO = pathlib.Path(zoo.__file__).parent

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
    copy = zoo.convert(tmp_path / "file.safetensors", tmp_path / "made", labels=("a", "b", "c"))
    is_the_toy(zoo.load(copy, verify=True), toy)
    assert zoo.info(copy).labels == ("a", "b", "c")
    assert verify(str(copy)).checks == ["arrays", "golden output"]

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    parts = make_snapshot(tmp_path / "hub", "toy/published")
    for stem in ("body", "top"):  # two files
        part = {key.removeprefix(f"{stem}."): array for key, array in toy.items() if key.startswith(stem)}
        save_file(part, parts / f"{stem}.safetensors")
    is_the_toy(zoo.load("toy_published"), toy)
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
    (match,) = filter(None, (family.recognise(source) for family in families.having("recognise")))
    fit(match.entry, shapes, "file", match.rules)  # every array, and no other
    ours, published = skeleton(match.entry)[0], skeleton(entry)[0]
    assert ours.frontend == published.frontend
    assert jax.tree.structure(ours.network) == jax.tree.structure(published.network)  # its static numbers, too
    for field in ("classes", "task", "window"):
        assert getattr(match.entry, field) == getattr(entry, field)


# PANNs: by shapes alone, for they are large


def panns(change=lambda key, shape: shape):
    (published,) = (each for each in ENTRIES if each.name == "panns_cnn14_audioset")
    return {key.removeprefix("backbone."): change(key, shape) for key, shape in source_shapes(published).items()}


def recognise(shapes, name="file.pth", **options):
    return families.recognise(WeightFile(pathlib.Path(name), "torch", {}, shapes, **options))


@pytest.mark.parametrize(
    "height, sample_rate, rate, numbers",
    [
        (513, None, 32000, (1024, 320, 14000.0)),
        (257, None, 16000, (512, 160, 8000.0)),
        (129, None, 8000, (256, 80, 4000.0)),
        (None, 16000, 16000, (512, 160, 8000.0)),
        (None, None, 32000, (1024, 320, 14000.0)),
    ],
)
def test_a_panns_file_tells_its_sample_rate_by_its_filterbank(height, sample_rate, rate, numbers):
    shapes = panns()
    del shapes["logmel_extractor.melW"]
    if height is not None:
        shapes["logmel_extractor.melW"] = (height, 64)
    frontend = recognise(shapes, sample_rate=sample_rate).entry.frontend
    assert frontend["sample_rate"] == rate
    assert tuple(frontend[name] for name in ("n_fft", "hop_length", "f_max")) == numbers


def test_a_panns_of_other_classes_is_nobodys_and_one_with_scores_over_time_is_refused():
    shapes = panns(lambda key, shape: tuple(10 if size == 527 else size for size in shape))
    entry = recognise(shapes).entry
    assert (entry.classes, entry.task, entry.license, entry.checkpoint) == (10, "multiclass", None, None)
    assert recognise(panns()).entry.license == "CC-BY-4.0"
    with pytest.raises(ValueError, match="is a PANNs of the kind DecisionLevel by its name"):
        recognise(panns(), "Cnn14_DecisionLevelMax_mAP=0.385.pth")


def test_positions_that_no_stride_gives_are_told(tmp_path):
    shapes = {
        "v.pos_embed": (1, 2 + 37, 64),
        "v.patch_embed.proj.weight": (64, 1, 16, 16),
        "mlp_head.1.weight": (3, 64),
    }
    with pytest.raises(ValueError, match=r"37 positions, which are not 128 bins at a stride of 10: give"):
        recognise(shapes | {"v.pos_embed": (1, 2 + 37, 64)})
    with pytest.raises(ValueError, match="is not a whole ast checkpoint: it has no"):
        recognise(shapes | {"v.pos_embed": (1, 2 + 36, 64)})
