"""Weights that a repo has elsewhere or in part: the bot's pull requests, and ranges of bytes, against a stand-in."""

import json
import pathlib
import shutil

import hub as stand_in
import numpy as np
import pytest
from safetensors.numpy import save_file
from test_hub import digest, run, sentence, told
from test_torch import torch_file

import zoo
from zoo._arrays import open_files, shapes_of
from zoo._leaves import named_leaves
from zoo._load import assemble
from zoo._models import described
from zoo._rules import Rule, drop
from zoo._source import source_of
from zoo.families import ast

GOLDEN = pathlib.Path(__file__).parent / "golden"
AST = {
    "architectures": ["ASTForAudioClassification"],
    "model_type": "audio-spectrogram-transformer",
    "id2label": {"0": "a", "1": "b", "2": "c"},
}
EXTRACTOR = {"feature_extractor_type": "ASTFeatureExtractor", "num_mel_bins": 40, "max_length": 100}
DECODER = Rule(r"decoder\..*", drop)
SIZE = 40_000  # numbers in the decoder, three quarters of the file


def ast_folder(folder, **arrays):
    """The two descriptions of a small AST, its weights as transformers names them, and the arrays besides."""
    with np.load(GOLDEN / "transformers_ast.npz") as file:
        prefix, config = "no bias/weights/", json.loads(str(file["no bias/config"]))
        weights = {key.removeprefix(prefix): file[key] for key in file if key.startswith(prefix)}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(AST | config))
    (folder / "preprocessor_config.json").write_text(json.dumps(EXTRACTOR))
    return weights | arrays


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of a torch file's repo and of pull requests: their weights are other ones, which tells them apart."""
    root = tmp_path_factory.mktemp("folders")
    weights = ast_folder(root / "torch")
    (root / "torch" / "pytorch_model.bin").write_bytes(torch_file(weights))
    other = {name: array + 1 for name, array in weights.items()}
    decoder = {"decoder.0.weight": np.ones(SIZE, np.float32), "decoder.1.weight": np.ones(9, np.float16)}
    for name in ("whole", "parts", "decoder", "tail"):
        (root / name).mkdir()
    save_file(other, root / "whole" / "model.safetensors")
    save_file(other | decoder, root / "decoder" / "model.safetensors")
    save_file(other | {"decoder.0.weight": np.ones(2, np.float32)}, root / "tail" / "model.safetensors")
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    places = {key: names[number % 2] for number, key in enumerate(other)}
    for file in names:
        part = {key: other[key] for key in other if places[key] == file}
        save_file(part | (decoder if file == names[0] else {}), root / "parts" / file)
    places |= dict.fromkeys(decoder, names[0])
    (root / "parts" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    for name in ("decoder", "tail"):
        for file in ("config.json", "preprocessor_config.json"):
            shutil.copy(root / "torch" / file, root / name / file)
    return root


PULLS = """
folders = pathlib.Path(folder)
from zoo import _hub
from zoo._repo import Repo
from zoo._rules import Rule, drop
from zoo.families import ast
time.sleep = lambda seconds: None  # between the client's attempts
plain_rules = ast.RULES["ast"]

def repo(name, request="whole", **options):
    put = {key: options.pop(key) for key in ("private",) if key in options}
    hub("put", name, str(folders / "torch"), **put)
    if "later" in options:
        hub("put", name, None, files={"README.md": options.pop("later")})
    commit = hub("discuss", name, request and str(folders / request), **options)
    asked()
    return commit

commit = repo("me/bot")
told["bot"] = digest(zoo.load("me/bot")), asked(), commit
told["again"] = digest(zoo.load("me/bot")), asked()
told["scan"] = [str(each) for each in huggingface_hub.scan_cache_dir(home).warnings]
told["main"] = digest(zoo.load("me/bot", revision="main"))
hub("put", "me/bot", None, files={"README.md": "newer"})
told["moved on"] = digest(zoo.load("me/bot"))

told["others"] = {}
for number, options in enumerate([
    {"title": "Adding safetensors variant of this model"}, {"title": ""}, {"author": "SFconvertb0t"}, {"author": None},
    {"author": "sfconvertbot"}, {"status": "closed"}, {"status": "merged"}, {"status": "draft"},
    {"isPullRequest": False}, {"behind": 1, "later": "x"}, {"twice": True}, {"files": {"config.json": "{}"}},
    {"files": {"pytorch_model.bin": "x"}}, {"files": {"modeling.py": "import os"}}, {"request": None},
    {"request": "torch"}, {"files": {"golden.safetensors": "x"}}, {"files": {"a/model.safetensors": "x"}},
]):
    repo(f"me/other{number}", **options)
    told["others"][str(options)] = digest(zoo.load(f"me/other{number}"))
repo("me/managed", files={".gitattributes": "*.safetensors filter=lfs"})
told["managed"] = digest(zoo.load("me/managed"))
repo("me/two", title="Another request")
hub("discuss", "me/two", str(folders / "whole"))
hub("discuss", "me/two", str(folders / "whole"), author="somebody")
told["two"] = digest(zoo.load("me/two"))

told["refused"] = {}
_hub.WAIT = 0.3
for place in ("discussions", "commits", "revision"):
    for status in (403, 429, 500, 0):
        name = f"me/{place}{status}"
        repo(name)
        hub("refuse", name, place, status)
        told["refused"][name] = digest(zoo.load(name))
_hub.WAIT = 5
for kind in ("busy", "cut"):
    repo(f"me/{kind}")
    hub("fault", f"me/{kind}", "model.safetensors", kind, 1000)
    told["refused"][kind] = digest(zoo.load(f"me/{kind}"))

repo("me/private", private=True)
told["private"] = digest(zoo.load("me/private")), sorted({each["Authorization"] for each in hub("requests")})
repo("me/early")
zoo.load("me/early", revision="main")
asked()
told["early"] = digest(zoo.load("me/early")), asked()
repo("me/parts", "parts")
ast.RULES["ast"] = (*plain_rules, Rule(r"decoder\\..*", drop))
told["parts"] = digest(zoo.load("me/parts"))
commit = repo("me/first")
told["first file"] = Repo("me/first").path("model.safetensors").parent.name == commit
hub("put", "me/none", None, files={file: (folders / "torch" / file).read_text() for file in
    ("config.json", "preprocessor_config.json")})
hub("discuss", "me/none", str(folders / "whole"))
told["none"] = load_fault("me/none")
commit = repo("me/pinned")
own = home / "models--me--pinned" / "audax"
own.parent.mkdir()
own.write_text("no folder can be made here")
told["no pin"] = digest(zoo.load("me/pinned"))
own.unlink()
own.mkdir()
pin = own / hub("head", "me/pinned")
pin.write_text("../../elsewhere")
told["odd pin"] = digest(zoo.load("me/pinned")), pin.read_text() == commit
from zoo._verify import verify
repo("me/new")
reports = map(verify, ("me/new", "me/other0", "me/parts", "me/none"))
told["verify"] = [(report.result, report.checks) for report in reports]

# Parts

def sent(name):
    return [(each["sent"], each["Range"]) for each in hub("requests") if each["sent"] and "safetensors" in each["path"]]

hub("put", "me/decoder", str(folders / "decoder"))
asked()
told["part"] = digest(zoo.load("me/decoder")), sent("me/decoder")
told["part again"] = digest(zoo.load("me/decoder")), asked()
told["part files"] = sorted(str(path.relative_to(home)) for path in home.glob("models--me--decoder/*/*safetensors"))
told["part arrays"] = sorted(zoo.arrays(home / told["part files"][0]))
hub("put", "me/tail", str(folders / "tail"))
asked()
told["tail"] = digest(zoo.load("me/tail")), (home / "models--me--tail/audax").exists()
for kind in ("whole", "torn"):
    hub("put", f"me/{kind}part", str(folders / "decoder"))
    hub("fault", f"me/{kind}part", "model.safetensors", kind, 1000)
    parts = home / f"models--me--{kind}part" / "audax"
    told[f"{kind} part"] = digest(zoo.load(f"me/{kind}part")), [str(each) for each in parts.glob("*")]
commit = repo("me/both", "decoder")
told["both"] = digest(zoo.load("me/both")), (home / "models--me--both/snapshots" / commit).exists()
hub("put", "me/cdn", str(folders / "decoder"))
hub("redirect", True)
asked()
told["cdn"] = digest(zoo.load("me/cdn")), hub("requests")
hub("redirect", False)
hub("put", "me/meet", str(folders / "torch"))
hub("discuss", "me/meet", str(folders / "decoder"))
hub("meet")
told["meet"] = digest(zoo.load("me/meet"))
"""
MEET = """
from zoo._rules import Rule, drop
from zoo.families import ast
ast.RULES["ast"] = (*ast.RULES["ast"], Rule(r"decoder\\..*", drop))
huggingface_hub.constants.HF_HUB_CACHE = sys.argv[2]
hub("meet")
told["meet"] = digest(zoo.load("me/meet"))
"""
OFFLINE = """
from zoo._rules import Rule, drop
from zoo.families import ast
told["bot"] = digest(zoo.load("me/managed"))
told["bin"] = digest(zoo.load("me/other0"))
told["no decoder rule"] = load_fault("me/decoder")
ast.RULES["ast"] = (*ast.RULES["ast"], Rule(r"decoder\\..*", drop))
told["part"], told["both"] = digest(zoo.load("me/decoder")), digest(zoo.load("me/both"))
told["parts"] = digest(zoo.load("me/parts"))
"""


@pytest.fixture(scope="module")
def pulls(folders, tmp_path_factory):
    """What three processes tell: two that meet, and one without the Hub."""
    home = tmp_path_factory.mktemp("home")
    with stand_in.serve() as (_, address):
        second = run(MEET, folders, home / "hub", home=tmp_path_factory.mktemp("second"), address=address)
        first = run(PULLS, folders, home=home, address=address, HF_TOKEN=stand_in.READER)
        online, met = told(first), told(second)
        offline = told(run(OFFLINE, folders, home=home, address=address, HF_HUB_OFFLINE="1"))
    return online | {"met": met["meet"], "offline": offline}


@pytest.fixture(scope="module")
def torch_digest(folders):
    """Of the weights in the torch file."""
    clip = zoo.load(folders / "torch")
    return digest(named_leaves(clip.model, clip.state))


@pytest.fixture(scope="module")
def bot_digest(folders):
    """Of the weights in the pull requests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ast.RULES, "ast", (*ast.RULES["ast"], DECODER))
        clip = zoo.load(folders / "decoder")
    return digest(named_leaves(clip.model, clip.state))


def test_safetensors_come_from_the_bots_pull_request_and_its_commit_is_pinned(pulls, bot_digest, torch_digest):
    weights, requests, commit = pulls["bot"]
    assert weights == bot_digest != torch_digest
    contents = [path for method, path in requests if method == "GET" and "/resolve/" in path]
    assert contents[-1] == f"/me/bot/resolve/{commit}/model.safetensors"
    assert not any("pytorch_model" in path or "refs" in path for path in contents)
    assert pulls["again"] == [bot_digest, [["HEAD", "/me/bot/resolve/main/config.json"]]]
    assert pulls["scan"] == []  # the client's own view of the cache
    assert pulls["first file"]


def test_a_revision_that_is_given_and_a_main_that_moved_on_have_no_pull_request(pulls, torch_digest):
    assert pulls["main"] == pulls["moved on"] == torch_digest


def test_pull_requests_of_others_and_with_other_changes_are_left_alone(pulls, torch_digest):
    assert len(pulls["others"]) == 18
    assert {options: weights for options, weights in pulls["others"].items() if weights != torch_digest} == {}


def test_what_the_hub_itself_adds_and_requests_of_others_beside_it_do_not_matter(pulls, bot_digest):
    assert pulls["managed"] == pulls["two"] == bot_digest
    assert pulls["private"] == [bot_digest, [f"Bearer {stand_in.READER}"]]
    assert pulls["parts"] == bot_digest


def test_what_goes_wrong_with_a_pull_request_leaves_the_torch_file(pulls, torch_digest):
    assert len(pulls["refused"]) == 14
    assert {name: weights for name, weights in pulls["refused"].items() if weights != torch_digest} == {}


def test_a_torch_file_in_the_cache_is_read_without_a_question(pulls, torch_digest):
    weights, requests = pulls["early"]
    assert weights == torch_digest and requests == [["HEAD", "/me/early/resolve/main/config.json"]]


def test_verify_looks_where_a_load_does(pulls):
    new, torch_alone, parts, none = pulls["verify"]
    assert new[1] == ["repo", "labels", "arrays"] and "in a pull request of the Hub's bot" in new[0]
    for result, checked in (torch_alone, parts):
        assert checked == ["repo", "labels"] and "its weights are not safetensors" in result
    assert "me/none has no model.safetensors" in none[0]


def test_a_pull_request_is_of_a_torch_file(pulls):
    sentence(pulls["none"], "FileNotFoundError", "me/none has no model.safetensors")


def test_a_pin_that_cannot_be_written_or_read_is_done_without(pulls, bot_digest):
    assert pulls["no pin"] == bot_digest
    assert pulls["odd pin"] == [bot_digest, True]


def test_of_a_file_with_a_part_that_nothing_needs_the_other_part_is_fetched(pulls, bot_digest):
    weights, answers = pulls["part"]
    assert weights == bot_digest
    assert sum(size for size, _ in answers) < 2 * SIZE and all(place.startswith("bytes=") for _, place in answers)
    assert pulls["part again"] == [bot_digest, [["HEAD", "/me/decoder/resolve/main/config.json"]]]
    assert len(pulls["part files"]) == 1 and not any(name.startswith("decoder") for name in pulls["part arrays"])


def test_a_file_of_which_most_is_needed_or_that_comes_without_ranges_is_fetched_whole(pulls, bot_digest):
    assert pulls["tail"] == [bot_digest, False]
    assert pulls["whole part"] == pulls["torn part"] == [bot_digest, []]


def test_a_part_of_a_pull_request_and_one_that_lies_elsewhere(pulls, bot_digest):
    assert pulls["both"] == [bot_digest, False]
    weights, requests = pulls["cdn"]
    assert weights == bot_digest
    hosts = {(each["host"], each["Authorization"]) for each in requests}
    assert hosts == {("127.0.0.1", f"Bearer {stand_in.READER}"), ("localhost", None)}


def test_two_processes_take_a_part_of_a_pull_request_at_once(pulls, bot_digest):
    assert pulls["meet"] == pulls["met"] == bot_digest


def test_offline_pins_and_parts_are_found_again(pulls, bot_digest, torch_digest):
    offline = pulls["offline"]
    fault = offline.pop("no decoder rule")
    assert offline == dict.fromkeys(("bot", "part", "both", "parts"), bot_digest) | {"bin": torch_digest}
    sentence(fault, "ConnectionError", "model.safetensors of me/decoder", "neither in the Hub's cache nor reachable")


# From a disk


def test_a_file_loads_though_what_rules_drop_cannot_be_read(folders, torch_digest, tmp_path, monkeypatch):
    # In front, where a check of types would look
    weights = {"decoder.0.weight": np.arange(SIZE, dtype=np.float32)} | ast_folder(tmp_path / "model")
    path, data = tmp_path / "model" / "pytorch_model.bin", bytearray(torch_file(weights))
    name = b"archive/data/0"
    for method in (data.index(name) - 22, data.rindex(name) - 36):  # in both headers of the entry: packed, it says
        data[method] = 8
    path.write_bytes(data)
    with pytest.raises(ValueError, match="an entry cannot be unpacked"):
        zoo.arrays(path)["decoder.0.weight"]
    with pytest.raises(ValueError, match=r"decoder\.0\.weight matches 0 rules"):
        zoo.load(tmp_path / "model")
    monkeypatch.setitem(ast.RULES, "ast", (*ast.RULES["ast"], DECODER))
    clip = zoo.load(tmp_path / "model")
    assert digest(named_leaves(clip.model, clip.state)) == torch_digest


class Noted(dict):
    """Arrays that remember which of them were read."""

    def __init__(self, arrays):
        super().__init__(arrays)
        self.names = []

    def __getitem__(self, name):
        self.names.append(name)
        return super().__getitem__(name)


def test_each_array_that_is_needed_is_read_once_and_no_other(folders):
    source = source_of(str(folders / "decoder"))
    entry, opened = described(source), open_files("model.safetensors", source.path)
    names = sorted(opened, reverse=True)  # decoder first
    arrays = Noted({name: opened[name] for name in names})
    assemble(entry, arrays, shapes_of(opened), "x", (*ast.RULES["ast"], DECODER))
    assert sorted(arrays.names) == sorted(name for name in names if not name.startswith("decoder."))
