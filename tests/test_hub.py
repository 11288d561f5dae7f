"""The Hub: publishing, loading and what goes wrong on the way, by the real client against a stand-in (tests/hub.py).

Scenarios share processes, for each imports three seconds' worth: a script tells all that it saw, tests look at parts.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import hub as stand_in
import jax
import numpy as np
import pytest
from huggingface_hub import ModelCard

import zoo
from zoo._card import front_matter, generated
from zoo._leaves import named_leaves

ROOT = pathlib.Path(__file__).parents[1]
TINY = zoo.Entry(
    name="tiny",
    frontend={"type": "LogMel", "sample_rate": 8000, "bins": 16, "n_fft": 256, "hop_length": 80},
    network={"type": "ResNet", "depths": (1,), "widths": (8,)},
    classes=3,
    task="multiclass",
    window=0.5,
    labels=("a", "b", "c"),
    license="MIT",
    source="https://huggingface.co/owner/original",
    paper="https://arxiv.org/abs/1512.03385",
    metrics=({"dataset": "AudioSet", "metric": "mAP", "value": 0.25, "source": "the publisher, owner/original"},),
)
PRELUDE = """
import hashlib, json, os, pathlib, re, shutil, sys, time, urllib.request, warnings
import huggingface_hub, numpy as np
import zoo
from zoo._hub import download
from zoo._repo import download_once
from zoo._leaves import named_leaves
told = {}
home = pathlib.Path(os.environ["HF_HOME"]) / "hub"
def hub(method, *arguments, **options):
    address = os.environ["HF_ENDPOINT"] + "/stand-in/" + method
    with urllib.request.urlopen(address, json.dumps([arguments, options]).encode()) as answer:
        return json.loads(answer.read())
def asked():
    return [(each["method"], each["path"]) for each in hub("requests")]
def digest(clip):
    leaves = sorted(named_leaves(clip.model, clip.state).items())
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for _, leaf in leaves)).hexdigest()
def fault(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except (ValueError, OSError) as error:
        return type(error).__name__, str(error)
def load_fault(*arguments, **options):
    return fault(zoo.load, *arguments, **options)
folder = sys.argv[1]
"""


def run(code, *arguments, home, address, prefix=(), **environment):
    """A process that tells, as JSON in its last line, what the code put into `told`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XLA_"))}
    chosen = {"HF_HOME": str(home), "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", f"{PRELUDE}{code}\nprint(json.dumps(told))", *map(str, arguments)],
        env=inherited | chosen | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(process):
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def digest(leaves):
    arrays = (np.asarray(leaf) for _, leaf in sorted(leaves.items()))
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def sentence(fault, kind, *parts):
    """That it is one sentence of this kind, with these parts."""
    found, message = fault
    assert found == kind, message
    assert "\n" not in message and message.endswith(".") and len(message) < 600
    for part in parts:
        assert part in message


@pytest.fixture(scope="module")
def clip():
    model, state = zoo.create(TINY, key=jax.random.key(0))
    return zoo.Pretrained(model, state, TINY)


@pytest.fixture(scope="module")
def folder(clip, tmp_path_factory):
    made = tmp_path_factory.mktemp("models") / "tiny"
    zoo.save(made, clip.model, clip.state, TINY)
    return made


@pytest.fixture(scope="module")
def server():
    with stand_in.serve() as (hub, address):
        yield hub, address


@pytest.fixture
def copy(folder, tmp_path):
    return pathlib.Path(shutil.copytree(folder, tmp_path / "copy"))


# What a folder tells of itself


def test_the_card_is_what_the_hub_reads(folder):
    text = (folder / "README.md").read_text()
    card = ModelCard(text).data
    assert (card.license, card.library_name, card.pipeline_tag) == ("mit", "audax-eqx", "audio-classification")
    assert (card.base_model, card.datasets) == ("owner/original", ["agkphysics/AudioSet"])
    (result,) = card.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("AudioSet", "mAP", 0.25)
    assert (result.source_name, result.source_url) == ("the publisher, owner/original", TINY.source)
    for part in ("| AudioSet | mAP | 0.25 | the publisher, owner/original |", "a, b, c", TINY.paper, "Licence: MIT"):
        assert part in text


def test_the_card_of_an_unusual_model_is_yaml_too(clip, tmp_path):
    fields = {
        "license": "My own: 'one' #2",
        "source": "https://huggingface.co/datasets/a/b",
        "paper": None,
        "labels": (),
    }
    metrics = ({"dataset": 'ESC "10": a|b', "metric": "accuracy", "value": 1, "source": "this project: 4 folds"},)
    entry = dataclasses.replace(TINY, name="été: [1]", metrics=metrics, **fields)
    zoo.save(tmp_path / "model", clip.model, clip.state, entry)
    card = ModelCard.load(tmp_path / "model" / "README.md").data
    assert (card.license, card.license_name) == ("other", "my-own-one-2")
    assert card.base_model is None and card.datasets is None
    (result,) = card.eval_results
    assert (card.model_name, result.dataset_name, result.source_url) == ("été: [1]", 'ESC "10": a|b', None)
    assert result.metric_value == 1 and "this project: 4 folds" in result.metric_name
    assert "a\\|b" in (tmp_path / "model" / "README.md").read_text()


def test_a_contrastive_models_card_and_golden_output(tmp_path):
    fields = {"model": {"type": "COLA", "width": 5}, "classes": 0, "task": "contrastive", "labels": (), "metrics": ()}
    entry = dataclasses.replace(TINY, **fields)
    zoo.save(tmp_path / "model", *zoo.create(entry, key=jax.random.key(0)), entry)
    assert ModelCard.load(tmp_path / "model" / "README.md").data.pipeline_tag == "feature-extraction"
    assert "clip.embed(zoo.read(" in (tmp_path / "model" / "README.md").read_text()
    assert zoo.load(tmp_path / "model", verify=True).model.width == 5


def test_the_frontends_numbers_are_in_transformers_words(folder):
    numbers = json.loads((folder / "preprocessor_config.json").read_text())
    expected = {"sampling_rate": 8000, "feature_size": 16, "n_fft": 256, "win_length": 256, "hop_length": 80}
    expected |= {"f_min": 0.0, "f_max": 4000.0, "chunk_length": 0.5, "n_samples": 4000, "padding_value": 0.0}
    assert expected.items() <= numbers.items()
    assert numbers["feature_extractor_type"] == "LogMel"


def test_a_card_that_somebody_wrote_is_kept_and_a_generated_one_renewed(clip, copy):
    before = (copy / "README.md").read_bytes()
    assert generated(before) and generated(before.replace(b"\n", b"\r\n"))
    newer = dataclasses.replace(TINY, license="Apache-2.0")
    zoo.save(copy, clip.model, clip.state, newer)
    assert b"apache-2.0" in (copy / "README.md").read_bytes()
    for mine in (b"# Mine\n", (copy / "README.md").read_bytes().replace(b"# tiny", b"# Tiny, on 3 GPUs"), b"\xff\n"):
        (copy / "README.md").write_bytes(mine)
        zoo.save(copy, clip.model, clip.state, TINY)
        assert (copy / "README.md").read_bytes() == mine
    assert zoo.load(copy).entry == TINY


# The golden output


def test_a_verified_model_gives_its_golden_output(folder, copy, clip):
    from safetensors.numpy import load_file

    golden = load_file(folder / "golden.safetensors")
    assert {name: (array.dtype, array.shape) for name, array in golden.items()} == {
        "wave": (np.float32, (4000,)),
        "output": (np.float32, (3,)),
    }
    loaded = zoo.load(folder, verify=True)
    np.testing.assert_allclose(loaded(golden["wave"]), golden["output"], rtol=1e-5)
    # Of float16 weights it is the output of the rounded ones, in float32
    zoo.save(copy, clip.model, clip.state, TINY, dtype="float16")
    half = load_file(copy / "golden.safetensors")
    np.testing.assert_allclose(zoo.load(copy, verify=True)(half["wave"]), half["output"], rtol=1e-5)
    assert 0 < np.abs(half["output"] - golden["output"]).max() < 1e-2 * np.abs(golden["output"]).max()


def wrong(**arrays):
    """A change of the golden file; None takes an array away."""
    from safetensors.numpy import load_file, save_file

    def change(folder):
        found = load_file(folder / "golden.safetensors")
        changed = {name: make(found.get(name)) for name, make in arrays.items()}
        kept = {name: array for name, array in (found | changed).items() if array is not None}
        save_file(kept, folder / "golden.safetensors")

    return change


@pytest.mark.parametrize(
    "change, part",
    [
        (lambda folder: (folder / "golden.safetensors").unlink(), "has no golden.safetensors to verify it by"),
        (wrong(output=lambda output: output * (1 + 3e-4)), "does not give its golden output: it differs by 3.0e-04"),
        (wrong(output=lambda output: output * np.float32(np.nan)), "does not give its golden output"),
        (wrong(output=lambda output: output[:2].copy()), "holds 2 outputs and the model gives 3"),
        (wrong(wave=lambda wave: wave[:100].copy()), "a wave of 100 samples, too short"),
        (wrong(wave=lambda wave: wave / np.float32(0)), "does not hold the float32 arrays"),
        (wrong(wave=lambda wave: wave.astype(np.float64)), "does not hold the float32 arrays"),
        (wrong(output=lambda output: None), "does not hold the float32 arrays"),
        (wrong(tail=lambda _: np.zeros(1, np.float32)), "does not hold the float32 arrays"),
    ],
)
def test_what_cannot_be_verified_raises_one_sentence(copy, change, part):
    with np.errstate(divide="ignore", invalid="ignore"):
        change(copy)
    assert zoo.load(copy).labels == TINY.labels
    with pytest.raises(ValueError) as raised:
        zoo.load(copy, verify=True)
    sentence(("ValueError", str(raised.value)), "ValueError", part)


def test_the_packaged_model_verifies():
    assert zoo.load("resnet_esc10", verify=True).entry.license == "Apache-2.0"


# Publishing, loading


ONLINE = """
clip = zoo.load(folder)
entry = clip.entry
told["dry run"] = zoo.publish("me/tiny", clip.model, clip.state, entry, private=True, dry_run=True), asked()
told["url"] = zoo.publish("me/tiny", clip.model, clip.state, entry, private=True, dtype="float16")
told["publishing"] = hub("requests")
told["again"] = zoo.publish("me/tiny", clip.model, clip.state, entry, private=True, dtype="float16"), asked()

import contextlib, io
from zoo.__main__ import main
def command(*arguments):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(arguments)
    return code, out.getvalue(), err.getvalue()
told["command"] = command("publish", folder, "me/whole"), command("publish", folder, "me/whole")
told["sent"] = {file: hub("file", "me/whole", file) for file in ("config.json", "README.md")}
told["branch"] = command("publish", folder, "me/tiny", "--revision", "v1")
told["no name"] = command("publish", folder, "tiny")
told["private now"] = command("publish", folder, "me/whole", "--private")
hub("put", "me/whole", files={"README.md": "written on the Hub"})
from dataclasses import replace
zoo.publish("me/whole", clip.model, clip.state, replace(entry, labels=("x", "y", "z")))
told["card on the Hub"] = hub("file", "me/whole", "README.md"), "x" in hub("file", "me/whole", "config.json")
hub("put", "me/busy", files={"README.md": "written on the Hub"})
hub("fault", "me/busy", "README.md", "busy")
told["busy"] = fault(zoo.publish, "me/busy", clip.model, clip.state, entry), hub("file", "me/busy", "README.md")
token = os.environ.pop("HF_TOKEN")
told["no token"] = fault(zoo.publish, "me/tiny", clip.model, clip.state, entry), load_fault("me/tiny")
os.environ["HF_TOKEN"] = "hf_reader"
told["reader"] = fault(zoo.publish, "me/tiny", clip.model, clip.state, entry)
os.environ["HF_TOKEN"] = token

asked()
loaded = zoo.load("me/tiny", verify=True)
told["loaded"] = digest(loaded), loaded.entry.license, hub("requests")
import jax
thawed = loaded.thaw(classes=2, key=jax.random.key(0))
zoo.save(home.parent / "tuned", *thawed, thawed.entry)
told["tuned"] = thawed.entry.base, [(home.parent / "tuned" / file).read_text() for file in ("README.md", "config.json")]
zoo.load("me/tiny")
told["loaded again"] = asked()
old, new = told["url"][-40:], told["branch"][1].strip()[-40:]
told["v1"] = digest(zoo.load("me/tiny", revision="v1")), digest(zoo.load("me/tiny", revision=new))
asked()
told["pinned"] = digest(zoo.load("me/tiny", revision=old)), asked()
told["snapshot"] = digest(zoo.load(home / "models--me--tiny" / "snapshots" / new))

told["no repo"] = load_fault("me/none")
told["no revision"] = load_fault("me/tiny", revision="v9")
hub("put", "me/bare", files={"config.json": hub("file", "me/whole", "config.json")})
told["no weights"] = load_fault("me/bare")
hub("put", "me/old", files={"config.json": hub("file", "me/whole", "config.json"), "pytorch_model.bin": "x"})
told["broken pickle"] = load_fault("me/old")
old = home.parent / "old"
shutil.copytree(folder, old)
(old / "model.safetensors").rename(old / "pytorch_model.bin")  # what it is, its content tells
hub("put", "me/bin", str(old))
told["bin"] = digest(zoo.load("me/bin"))
hub("put", "me/gated", folder, gated=True)
told["gated"] = load_fault("me/gated")
told["odd name"] = load_fault("me/a--..b")

hub("put", "me/cdn", folder)
hub("redirect", True)
asked()
told["cdn"] = digest(zoo.load("me/cdn")), hub("requests")
hub("redirect", False)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_card_names_whole_addresses_and_what_it_was_made_from(name):
    entry = zoo.info(name)
    facts = front_matter(entry)
    assert ("model-index" in facts) == bool(entry.metrics)
    results = facts["model-index"][0]["results"] if entry.metrics else []
    addresses = [result["source"]["url"] for result in results if "source" in result]
    assert all(re.fullmatch(r"https://\S+", address) for address in addresses)
    if entry.checkpoint is not None:
        assert facts["base_model"] == entry.checkpoint.repo


@pytest.mark.parametrize("repo", ["a/..", "é/x", "user/a--b", "user/-x", "user/x.", ".user/x", "user/" + 92 * "x"])
def test_a_name_that_the_hub_refuses_is_told_before_anything_is_made(clip, repo):
    with pytest.raises(ValueError, match="published as user/name, got"):
        zoo.publish(repo, clip.model, clip.state, TINY, dry_run=True)


@pytest.fixture(scope="module")
def online(server, folder, home):
    return told(run(ONLINE, folder, home=home, address=server[1], HF_TOKEN=stand_in.TOKEN))


FILES = {"config.json", "model.safetensors", "preprocessor_config.json", "golden.safetensors", "README.md"}


def test_a_dry_run_lists_the_files_and_asks_nothing(online):
    text, asked = online["dry run"]
    assert asked == []
    head, *lines = text.splitlines()
    assert "me/tiny" in head
    assert {line.split()[0] for line in lines} == FILES
    assert all(int(line.split()[1].replace(",", "")) > 100 for line in lines)


def test_publishing_makes_a_private_repo_and_one_commit(online, server, clip):
    repo = server[0].repos["me/tiny"]
    assert repo.private
    first, commit = repo.branches["main"]
    assert set(repo.commits[first]) == {".gitattributes"}
    assert set(repo.commits[commit]) == FILES | {".gitattributes"}
    assert online["url"].endswith(f"/me/tiny/commit/{commit}")
    made = [each for each in online["publishing"] if "/commit/" in each["path"]]
    assert len(made) == 1
    about_it = [each for each in online["publishing"] if "me/tiny" in each["path"] or "create" in each["path"]]
    assert {each["Authorization"] for each in about_it} == {f"Bearer {stand_in.TOKEN}"}
    assert all("audax-eqx/" in each["User-Agent"] for each in made)
    assert 'zoo.load("me/tiny")' in repo.commits[commit]["README.md"].decode()
    assert generated(repo.commits[commit]["README.md"])


def test_publishing_the_same_again_makes_no_commit(online):
    url, asked = online["again"]
    assert url == online["url"]
    assert not [path for _, path in asked if "/commit/" in path]


def test_the_command_uploads_a_folder_as_it_is_and_tells_when_nothing_is_new(online, folder):
    (code, out, err), (again, out_again, _) = online["command"]
    assert (code, again, err) == (0, 0, "")
    url = out.strip()
    assert "/me/whole/commit/" in url and out_again == f"me/whole has this model already: {url}\n"
    assert online["sent"]["config.json"] == (folder / "config.json").read_text()
    assert 'zoo.load("me/whole")' in online["sent"]["README.md"]


def test_publishing_to_a_branch_leaves_main(online, server):
    code, out, _ = online["branch"]
    branches = server[0].repos["me/tiny"].branches
    assert code == 0 and out.strip().endswith(branches["v1"][-1])
    assert branches["main"][-1] == online["url"][-40:] and branches["v1"][:2] == branches["main"]


def test_what_cannot_be_published_is_told_in_one_sentence(online):
    for case, part in (("no name", "as user/name, got 'tiny'"), ("private now", "me/whole is public already")):
        code, out, err = online[case]
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert part in err
    publishing, loading = online["no token"]
    for fault in (publishing, online["reader"]):
        sentence(fault, "PermissionError", "me/tiny", "set HF_TOKEN to a token that may", "hf auth login")
    sentence(loading, "FileNotFoundError", "The Hub has no public repo me/tiny", "set HF_TOKEN if it is private")


def test_a_card_written_on_the_hub_stays(online):
    assert online["card on the Hub"] == ["written on the Hub", True]
    failed, card = online["busy"]
    sentence(failed, "ConnectionError", "me/busy is not published because the Hub cannot be reached")
    assert card == "written on the Hub"


def test_what_was_published_loads_bit_by_bit(online, clip, folder):
    rounded = {name: np.asarray(leaf, np.float16).astype(np.float32) for name, leaf in leaves(clip).items()}
    assert online["loaded"][:2] == [digest(rounded), "MIT"]
    assert any("running_var" in name for name in rounded)  # the State is among them
    assert online["v1"] == [digest(leaves(clip))] * 2
    assert online["pinned"] == [digest(rounded), []]
    assert online["snapshot"] == digest(leaves(clip))


def test_a_fine_tune_of_a_repo_names_the_repo_as_its_base(online):
    base, (card, config) = online["tuned"]
    assert (base["name"], base["repo"]) == ("tiny", "me/tiny")
    assert '"base_model": "me/tiny"' in card or "base_model: me/tiny" in card or 'base_model: "me/tiny"' in card
    assert '"repo": "me/tiny"' in config and "origin" not in config


def test_where_the_hub_does_not_answer_its_client_does_not_insist(tmp_path):
    process = run("told['dead'] = load_fault('me/tiny')", "", home=tmp_path, address="http://127.0.0.1:9")
    out, errors = process.communicate(timeout=600)
    sentence(json.loads(out.splitlines()[-1])["dead"], "ConnectionError", "neither in the Hub's cache nor reachable")
    assert errors == ""


def leaves(clip):
    return named_leaves(clip.model, clip.state)


def test_every_load_asks_for_the_config_and_then_for_one_commit(online):
    first, again = online["loaded"][2], online["loaded again"]
    assert {each["Authorization"] for each in first} == {f"Bearer {stand_in.TOKEN}"}
    assert all("audax-eqx/" in each["User-Agent"] for each in first)
    commit = online["url"][-40:]
    contents = [each["path"] for each in first if each["method"] == "GET"]
    assert contents[0].startswith("/me/tiny/resolve/") and contents[0].endswith("/config.json")
    assert contents[1:] == [f"/me/tiny/resolve/{commit}/{file}" for file in ("model.safetensors", "golden.safetensors")]
    assert again == [["HEAD", "/me/tiny/resolve/main/config.json"]]


def test_what_the_hub_does_not_have_is_told_in_one_sentence(online):
    sentence(online["no repo"], "FileNotFoundError", "The Hub has no public repo me/none")
    sentence(online["no revision"], "FileNotFoundError", "me/tiny has no config.json at revision v9")
    sentence(online["no weights"], "FileNotFoundError", "me/bare has no model.safetensors at revision")
    sentence(
        online["broken pickle"], "ValueError", "pytorch_model.bin is neither a safetensors file nor one that torch"
    )
    sentence(online["gated"], "PermissionError", "me/gated is gated", "HF_TOKEN")
    sentence(online["odd name"], "ValueError", "'me/a--..b' is not the name of a Hub repo")


def test_the_token_stays_with_the_hub_when_files_lie_elsewhere(online, clip):
    found, requests = online["cdn"]
    assert found == digest(leaves(clip))
    hosts = {each["host"]: set() for each in requests}
    for each in requests:
        hosts[each["host"]].add(each["Authorization"])
    assert hosts == {"127.0.0.1": {f"Bearer {stand_in.TOKEN}"}, "localhost": {None}}


OFFLINE = """
told["cached"] = digest(zoo.load("me/tiny", verify=True)), digest(zoo.load("me/tiny", revision="v1"))
told["none"] = load_fault("me/new")
told["other revision"] = load_fault("me/tiny", revision="v9")
told["bin"] = digest(zoo.load("me/bin"))
clip = zoo.load(folder)
told["publish"] = fault(zoo.publish, "me/tiny", clip.model, clip.state, clip.entry)
told["asked"] = asked()
"""


def test_offline_the_cache_is_all_there_is(online, server, folder, home):
    server[0].requests()
    found = told(run(OFFLINE, folder, home=home, address=server[1], HF_HUB_OFFLINE="1"))
    assert found["cached"] == [online["loaded"][0], online["v1"][0]]
    assert found["bin"] == online["bin"] == online["v1"][0]
    for case in ("none", "other revision"):
        sentence(found[case], "ConnectionError", "neither in the Hub's cache nor reachable", "resnet_esc10")
    sentence(found["publish"], "ConnectionError", "me/tiny is not published", "unset HF_HUB_OFFLINE")
    assert found["asked"] == []


# What goes wrong on the way


FAULTY = """
time.sleep = lambda seconds: None  # between the client's attempts
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 512
def put(name, *arguments, **options):
    hub("put", name, folder, **options)
    if arguments:
        hub("fault", name, *arguments)
    asked()

put("me/cut", "model.safetensors", "cut")
told["cut"] = digest(zoo.load("me/cut")), [each["Range"] for each in hub("requests") if each["Range"]]
put("me/dead", "model.safetensors", "cut", 1000)
told["dead"] = load_fault("me/dead"), [str(path) for path in home.rglob("*.incomplete")]
hub("fault", "me/dead", "model.safetensors", "cut", 0)
told["alive"] = digest(zoo.load("me/dead"))
put("me/short", "model.safetensors", "short")
told["short"] = load_fault("me/short")
put("me/moves", "config.json", "moves")
told["moved"] = digest(zoo.load("me/moves"))

blob = (home / "models--me--cut/snapshots").glob("*/model.safetensors").__next__().resolve()
blob.write_bytes(blob.read_bytes()[:-100])
told["broken"], told["blob"] = load_fault("me/cut"), str(blob)
os.remove(re.search("delete (.*) and fetch", told["broken"][1])[1])
told["mended"] = digest(zoo.load("me/cut"))

put("me/huge", "config.json", "huge")
told["huge"] = load_fault("me/huge"), asked()
put("me/grown")
zoo.load("me/grown")
put("me/grown", "config.json", "huge")
told["grown"] = load_fault("me/grown"), asked()
put("me/unsized", "config.json", "unsized")
told["unsized"] = load_fault("me/unsized")
put("me/weights", "model.safetensors", "huge")
told["small weights"] = load_fault("me/weights")

put("me/stuck")
zoo.load("me/stuck")
locks = home / ".locks" / "models--me--stuck"
shutil.rmtree(locks)
locks.write_text("nothing can be written where a folder is needed")
config = (pathlib.Path(folder) / "config.json").read_text().replace('"tiny"', '"newer"')
hub("put", "me/stuck", None, files={"config.json": config})
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    stuck = zoo.load("me/stuck")
told["stuck"] = stuck.entry.name, digest(stuck), [str(each.message) for each in caught]

put("me/labels")
told["kept"] = [(download_once("me/labels", "config.json").name, asked()) for _ in range(2)]
told["counted"] = load_fault("convnext_audioset"), asked()
told["not counted"] = load_fault("convnext_audioset", revision="1" * 40), asked()
told["here"], told["home"] = os.listdir("."), os.listdir(home.parent)

hub("meet")
told["both"] = digest(zoo.load("me/both"))
"""
FULL = """
if sys.argv[3] == "small":
    os.makedirs(home)
    told["fetched"] = load_fault("me/both")
    clip = zoo.load("resnet_esc10")
    told["saved"] = fault(zoo.save, home.parent / "model", clip.model, clip.state, clip.entry)
    told["left"] = os.listdir(home.parent / "model")
huggingface_hub.constants.HF_HUB_CACHE = sys.argv[2]
hub("meet")
told["both"] = digest(zoo.load("me/both"))
"""


def small_disk(folder):
    """What to put before a command so that `folder` is on a disk of 16 kB, or nothing where that is not allowed."""
    mount = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=16k none "{folder}" && exec "$0" "$@"']
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run([*mount, "true"], capture_output=True).returncode == 0:
            return mount
    return []


@pytest.fixture(scope="module")
def both(server, folder, tmp_path_factory):
    """What two processes tell that meet, the second of which has no room on its disk."""
    hub, address = server
    hub.put("me/both", folder)
    here, home, small = (tmp_path_factory.mktemp(name) for name in ("here", "faulty", "small"))
    prefix = small_disk(small)
    full = run(FULL, folder, home / "hub", "small" if prefix else "none", home=small, address=address, prefix=prefix)
    with contextlib.chdir(here):
        faulty = run(FAULTY, folder, home=home, address=address)
    return told(faulty), told(full)


@pytest.fixture(scope="module")
def faulty(both):
    return both[0]


def test_a_download_that_is_cut_goes_on_where_it_was(faulty, clip):
    found, ranges = faulty["cut"]
    assert found == digest(leaves(clip))
    assert len(ranges) == 1 and int(ranges[0].removeprefix("bytes=").removesuffix("-")) > 0


def test_a_download_that_stays_cut_leaves_nothing_and_the_next_load_is_right(faulty, clip):
    fault, left = faulty["dead"]
    sentence(fault, "ConnectionError", "model.safetensors of me/dead", "nor reachable")
    assert left == []
    assert faulty["alive"] == digest(leaves(clip))


def test_another_size_than_the_hub_told_is_an_error(faulty):
    sentence(faulty["short"], "ConnectionError", "model.safetensors of me/short", "another size", "load it again")


def test_all_files_of_a_model_are_of_one_commit(faulty, clip):
    assert faulty["moved"] == digest(leaves(clip))


def test_a_broken_file_in_the_cache_is_named_and_fetched_anew_once_deleted(faulty, clip):
    sentence(faulty["broken"], "ValueError", "not a whole safetensors file", f"delete {faulty['blob']} and")
    assert faulty["mended"] == digest(leaves(clip))


def test_labels_of_another_repo_are_fetched_once_and_not_asked_for_again(faulty):
    (first, asked), (again, nothing) = faulty["kept"]
    assert first == again == "config.json" and {method for method, _ in asked} == {"HEAD", "GET"} and nothing == []


def test_a_file_too_large_to_be_what_it_is_called_is_refused(faulty):
    for name in ("huge", "grown"):  # the second was small when it was fetched before
        fault, asked = faulty[name]
        sentence(
            fault, "ValueError", f"config.json of me/{name} has 1000 MB, and the zoo reads config.json up to 17 MB"
        )
        assert {method for method, _ in asked} == {"HEAD"}
    sentence(faulty["unsized"], "ValueError", "config.json has 20 MB, and the zoo reads config.json up to 17 MB")
    assert "1000 MB" not in faulty["small weights"][1]  # weights may be that large; these do not come


def test_foreign_checkpoints_count_as_downloads_too(faulty):
    fault, asked = faulty["counted"]
    sentence(fault, "FileNotFoundError", "topel/ConvNeXt-Tiny-AT")
    assert asked[0] == ["HEAD", "/topel/ConvNeXt-Tiny-AT/resolve/main/config.json"]
    assert not [path for _, path in faulty["not counted"][1] if path.endswith("config.json")]


def test_where_the_cache_cannot_be_written_the_older_version_in_it_is_loaded_with_a_warning(faulty, clip):
    name, found, caught = faulty["stuck"]
    assert (name, found) == ("tiny", digest(leaves(clip)))
    assert any("me/stuck has changed on the Hub" in each and "cannot be written" in each for each in caught)


def test_nothing_is_written_outside_of_the_cache(faulty):
    assert (faulty["here"], faulty["home"]) == ([], ["hub"])


def test_two_processes_load_at_once(both, clip):
    assert [each["both"] for each in both] == [digest(leaves(clip))] * 2


def test_a_full_disk_is_told_in_one_sentence_and_leaves_no_half_model(both):
    _, full = both
    if "fetched" not in full:
        pytest.skip("a small disk cannot be mounted here: unshare and mount are not allowed")
    parts = ("cannot be written to the Hub's cache", "No space left on device", "make room", "HF_HOME")
    sentence(full["fetched"], "OSError", "me/both", *parts)
    sentence(full["saved"], "OSError", "model cannot be written (", "o space left on device", "make room")
    assert full["left"] == []
