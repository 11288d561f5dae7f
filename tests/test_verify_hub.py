"""`audax-zoo verify` by the real client against a stand-in for the Hub (tests/hub.py)."""

import json
import re

import hub as stand_in
import numpy as np
import pytest
import reports
import soundfile
from hub import read_facts, run
from reports import WIDTH, table
from safetensors.numpy import load_file, save_file

folder = reports.folder


SHAPES = {  # as timm names them
    "conv1.weight": (WIDTH, 3, 7, 7),
    "layer1.0.conv1.weight": (WIDTH, WIDTH, 3, 3),
    "layer1.0.conv2.weight": (WIDTH, WIDTH, 3, 3),
    **{
        f"{norm}.{name}": (WIDTH,)
        for norm in ("bn1", "layer1.0.bn1", "layer1.0.bn2")
        for name in ("weight", "bias", "running_mean", "running_var")
    },
    "bn1.num_batches_tracked": (),
    "fc.weight": (3, WIDTH),
    "fc.bias": (3,),
}
MIT = "---\nlicense: mit\n---\n# A card\n"
LABELS = 'index,mid,display_name\n0,/m/0,Dog\n1,/m/1,"Speech, male"\n2,/m/2,Rain\n'
SAMPLES = 4000

# Entries of the registry, each of the repo pub/NAME; their literals are set in place of the zoo's
PRELUDE = """
import contextlib, dataclasses, io
from zoo import families
from zoo.__main__ import main
def entry(name, stated="MIT", **options):
    checkpoint = {"repo": f"pub/{name}", "table": "timm_resnet", "label_file": "l.csv", "label_repo": "pub/labels"}
    model = dataclasses.replace(zoo.info(folder), name=name, labels=(), license=stated)
    return dataclasses.replace(model, checkpoint=zoo.Checkpoint(**checkpoint | options))
entries = {name: entry(name) for name in (
    "right", "key", "shape", "many", "junk", "license", "silent", "gone", "heard", "deaf", "off"
)}
entries["mirror"] = entry("mirror", "CC-BY-4.0", license="MIT")
entries["nameless"] = entry("nameless", label_file="none.csv")
for name, classes in (("described", 3), ("grown", 4)):
    checkpoint = zoo.Checkpoint(repo="me/ast", table="ast", label_file="config.json")
    entries[name] = dataclasses.replace(entry(name), classes=classes, checkpoint=checkpoint)
entries["miscounted"] = entry("miscounted", label_file="two.csv")
families.entries = lambda: entries
def command(*arguments):
    hub("requests")
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(["verify", *arguments])
    return code, out.getvalue(), err.getvalue(), hub("requests")
"""


def weights(folder, arrays, card=MIT):
    """A folder with a foreign checkpoint and a card."""
    folder.mkdir()
    save_file(arrays, folder / "model.safetensors")
    (folder / "README.md").write_text(card)
    return folder


def seeded():
    rng = np.random.default_rng(0)
    arrays = {key: rng.normal(0, 0.1, shape).astype(np.float32) for key, shape in SHAPES.items()}
    return arrays | {key: 1 + abs(array) for key, array in arrays.items() if key.endswith("running_var")}


def ast(folder):
    """A repo that describes itself, in transformers' layout: an AST without blocks."""
    config = {"model_type": "audio-spectrogram-transformer", "hidden_size": 8, "num_hidden_layers": 0}
    config |= {"num_attention_heads": 2, "intermediate_size": 8, "num_mel_bins": 16, "max_length": 24, "patch_size": 8}
    config |= {"time_stride": 8, "frequency_stride": 8, "id2label": {"0": "a", "1": "b", "2": "c"}}
    extractor = {"num_mel_bins": 16, "max_length": 24, "sampling_rate": 8000}
    network, shapes = (
        "audio_spectrogram_transformer",
        {"classifier.dense.weight": (3, 8), "classifier.dense.bias": (3,)},
    )
    for norm in (f"{network}.layernorm", "classifier.layernorm"):
        shapes |= {f"{norm}.weight": (8,), f"{norm}.bias": (8,)}
    for name, shape in {
        "cls_token": (1, 1, 8),
        "distillation_token": (1, 1, 8),
        "position_embeddings": (1, 2 + 2 * 3, 8),
        "patch_embeddings.projection.weight": (8, 1, 8, 8),
        "patch_embeddings.projection.bias": (8,),
    }.items():
        shapes[f"{network}.embeddings.{name}"] = shape
    weights(folder, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor))
    return folder


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    """A Hub with repos that are as the entries say, and others that are not."""
    root = tmp_path_factory.mktemp("repos")
    arrays = seeded()
    variants = {
        "right": arrays,
        "key": {key: array for key, array in arrays.items() if key != "layer1.0.bn2.bias"},
        "shape": arrays | {"fc.weight": np.zeros((4, WIDTH), np.float32)},
        "many": arrays | {f"surplus.{index:04}.weight": np.zeros(1, np.float32) for index in range(2000)},
    }
    with stand_in.serve() as (hub, address):
        for name, content in variants.items():
            hub.put(f"pub/{name}", weights(root / name, content))
        for name in ("mirror", "nameless", "miscounted", "heard", "deaf", "off"):
            hub.put(f"pub/{name}", root / "right")
        hub.put("pub/license", weights(root / "license", arrays, MIT.replace("mit", "cc-by-nc-4.0")))
        hub.put("pub/silent", weights(root / "silent", arrays, "# A card\n"))
        hub.put("pub/junk", files={"model.safetensors": "\x03\x00\x00\x00\x00\x00\x00\x00abc" + 100 * "x"})
        hub.put("pub/labels", files={"l.csv": LABELS, "two.csv": LABELS.rsplit("\n", 2)[0] + "\n"})
        hub.put("me/own", folder)
        hub.put("me/ast", ast(root / "ast"))
        wrong = root / "wrong"
        wrong.mkdir()
        golden = load_file(folder / "golden.safetensors")
        for path in folder.iterdir():
            (wrong / path.name).write_bytes(path.read_bytes())
        save_file(golden | {"output": golden["output"] * 1.01}, wrong / "golden.safetensors")
        hub.put("me/wrong", wrong)
        sounds = root / "sounds"
        sounds.mkdir()
        wave = np.random.default_rng(1).uniform(-0.5, 0.5, SAMPLES)
        soundfile.write(sounds / "noise.wav", wave, 8000)
        hub.put("datasets/pub/sounds", sounds)
        yield hub, address


SCRIPT = """
facts["right"] = command("right", "me/own", "mirror", "silent", "described", "me/ast")
facts["cached"] = sorted(path.name for path in home.rglob("snapshots/*/*"))
hub("redirect", True)
facts["elsewhere"] = command("right")
hub("redirect", False)
facts["faults"] = command(
    "key", "shape", "many", "junk", "license", "nameless", "miscounted", "grown", "gone", "me/gone", "right"
)

from zoo._entry import Acceptance
place = {"repo": "datasets/pub/sounds", "file": "noise.wav"}
logits = np.asarray(zoo.load("heard")(zoo.read(zoo._hub.download(*place.values()), 8000)), np.float64)
threshold = 0.5 / (1 + np.exp(-logits.max())) + 0.5 / (1 + np.exp(-logits.min()))
sounds = tuple(np.flatnonzero(1 / (1 + np.exp(-logits)) > threshold).tolist())
right = {"logits": tuple(np.round(logits[:2], 4).tolist()), "classes": sounds, "threshold": threshold}
outputs = {
    "heard": Acceptance(**place, **right),
    "off": Acceptance(**place, **right | {"logits": tuple((1.01 * logits[:2]).tolist())}),
    "deaf": Acceptance(**place, **right | {"classes": tuple(sorted({0, 1, 2} - set(sounds)))}),
}
families.acceptance = outputs.get
facts["heard"] = sounds
facts["full"] = command("--full", "me/own", "heard", "right")
facts["full faults"] = command("--full", "me/wrong", "off", "deaf")

hub("remove", "pub/labels")
facts["labels gone"] = command("right")
"""


@pytest.fixture(scope="module")
def online(server, folder, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    return read_facts(run(PRELUDE + SCRIPT, folder, home=home, address=server[1]))


def test_models_that_are_as_the_zoo_says_exit_0(online):
    code, out, err, _ = online["right"]
    assert (code, err) == (0, "")
    assert table(out) == {
        "right": ["pub/right", "repo, labels, arrays, licence", "ok"],
        "me/own": ["me/own", "repo, labels, arrays, licence", "ok"],
        "mirror": ["pub/mirror", "repo, labels, arrays, licence", "ok"],  # its card states another than the entry
        "silent": ["pub/silent", "repo, labels, arrays", "ok, its card states no licence"],
        "described": ["me/ast", "repo, labels, arrays, licence", "ok"],
        "me/ast": ["me/ast", "repo, labels, arrays", "ok, its card states the licence mit"],
    }


def test_of_the_weights_only_the_first_100_kb_are_asked_for(online, server):
    hub, _ = server
    size = len(hub.repos["pub/right"].commits[hub.repos["pub/right"].find("main")]["model.safetensors"])
    assert size > 300_000
    weights = [each for each in online["right"][3] if each["path"].endswith(".safetensors") and each["method"] == "GET"]
    assert {each["Range"] for each in weights} == {"bytes=0-100000"} and len(weights) == 6
    assert all(each["sent"] <= 100_001 for each in weights)
    assert set(online["cached"]) == {"l.csv", "config.json", "preprocessor_config.json"}
    assert all("audax-eqx/" in each["User-Agent"] for each in weights)


def test_a_foreign_checkpoint_that_is_not_loaded_is_not_counted_as_a_download(online):
    paths = [each["path"] for each in online["right"][3] if each["path"].endswith("config.json")]
    assert paths and all(path.startswith("/me/") for path in paths)


def test_weights_may_lie_on_another_host(online):
    code, out, _, requests = online["elsewhere"]
    assert code == 0 and table(out)["right"][2] == "ok"
    (content,) = [each for each in requests if each["host"] == "localhost"]
    assert content["sent"] == 100_001


@pytest.mark.parametrize(
    "name, checked, parts",
    [
        (
            "key",
            "repo, labels",
            ["model.safetensors of pub/key does not fit the model: network.stages.0.0.norm2.bias is missing."],
        ),
        ("shape", "repo, labels", ["does not fit the model: head.weight is (4, 64) instead of (3, 64)."]),
        (
            "many",
            "repo, labels",
            ["surplus.0000.weight matches 0 rules, so no array of the model is made of it; surplus.0001", " ..."],
        ),
        ("junk", "repo, labels", ["model.safetensors of pub/junk does not begin like a safetensors file"]),
        (
            "license",
            "repo, labels, arrays",
            ["The card of pub/license states the licence cc-by-nc-4.0, and the zoo MIT"],
        ),
        ("nameless", "repo", ["pub/labels has no none.csv"]),
        ("miscounted", "repo", ["miscounted has 3 classes and 2 labels"]),
        (
            "grown",
            "repo",
            ["config.json of me/ast describes a model with 3 classes at 8000 Hz, and the zoo one with 4 at 8000 Hz"],
        ),
        ("gone", "-", ["The Hub has no public repo pub/gone"]),
        ("me/gone", "-", ["The Hub has no public repo me/gone"]),
    ],
)
def test_what_is_not_as_the_zoo_says_is_one_sentence(online, name, checked, parts):
    row = table(online["faults"][1])[name]
    assert row[:2] == [{"grown": "me/ast"}.get(name, name if "/" in name else f"pub/{name}"), checked]
    for part in parts:
        assert part in row[2]
    assert len(row[2]) < 500


def test_a_fault_exits_1_and_does_not_cost_the_others(online):
    code, out, err, requests = online["faults"]
    assert (code, err) == (1, "")
    assert list(table(out))[-1] == "right" and table(out)["right"][2] == "ok"
    ranges = [each["Range"] for each in requests if "pub/many" in each["path"] and each["Range"]]
    assert len(ranges) == 2 and re.fullmatch(r"bytes=8-1\d{5}", ranges[1])  # its header has more than 100 kB


def test_a_label_file_that_is_in_the_cache_alone_is_a_fault(online):
    code, out, _, _ = online["labels gone"]
    assert code == 1
    assert "The Hub has no public repo pub/labels" in table(out)["right"][2]


def test_full_runs_a_model_for_what_is_known_of_its_outputs(online):
    assert 0 < len(online["heard"]) < 3
    code, out, err, requests = online["full"]
    assert (code, err) == (0, "")
    assert table(out) == {
        "me/own": ["me/own", "repo, labels, arrays, licence, golden output", "ok"],
        "heard": ["pub/heard", "repo, labels, arrays, licence, authors' output", "ok"],
        "right": ["pub/right", "repo, labels, arrays, licence", "ok, no output of it is known"],
    }
    whole = [each for each in requests if each["path"].endswith("model.safetensors") and each["sent"] > 300_000]
    assert {each["path"].split("/")[2] for each in whole} == {"own", "right"}  # heard was in the cache


def test_full_finds_other_outputs(online):
    code, out, _, _ = online["full faults"]
    rows = table(out)
    assert code == 1
    assert "own does not give its golden output: it differs by" in rows["me/wrong"][2]
    assert re.search(r"off gives the logits .* for noise.wav of datasets/pub/sounds, and its authors", rows["off"][2])
    assert re.search(r"deaf finds the classes .* in noise.wav of datasets/pub/sounds, and its authors", rows["deaf"][2])
    assert {row[1] for row in rows.values()} == {"repo, labels, arrays, licence"}
