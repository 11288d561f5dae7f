"""Weights that a repo has elsewhere or in part: the bot's pull requests, and ranges of bytes, against a stand-in."""

import ast_repos
import hub as stand_in
import pytest
from ast_repos import DECODER, SIZE
from hub import digest, read_facts, run, sentence

import zoo
from zoo._leaves import named_leaves
from zoo.families import ast

folders, torch_digest = ast_repos.folders, ast_repos.torch_digest


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
    list_requests()
    return commit

commit = repo("me/bot")
facts["bot"] = digest(zoo.load("me/bot")), list_requests(), commit
facts["again"] = digest(zoo.load("me/bot")), list_requests()
facts["scan"] = [str(each) for each in huggingface_hub.scan_cache_dir(home).warnings]
facts["main"] = digest(zoo.load("me/bot", revision="main"))
hub("put", "me/bot", None, files={"README.md": "newer"})
facts["moved on"] = digest(zoo.load("me/bot"))

facts["others"] = {}
for number, options in enumerate([
    {"title": "Adding safetensors variant of this model"}, {"title": ""}, {"author": "SFconvertb0t"}, {"author": None},
    {"author": "sfconvertbot"}, {"status": "closed"}, {"status": "merged"}, {"status": "draft"},
    {"isPullRequest": False}, {"behind": 1, "later": "x"}, {"twice": True}, {"files": {"config.json": "{}"}},
    {"files": {"pytorch_model.bin": "x"}}, {"files": {"modeling.py": "import os"}}, {"request": None},
    {"request": "torch"}, {"files": {"golden.safetensors": "x"}}, {"files": {"a/model.safetensors": "x"}},
]):
    repo(f"me/other{number}", **options)
    facts["others"][str(options)] = digest(zoo.load(f"me/other{number}"))
repo("me/managed", files={".gitattributes": "*.safetensors filter=lfs"})
facts["managed"] = digest(zoo.load("me/managed"))
repo("me/two", title="Another request")
hub("discuss", "me/two", str(folders / "whole"))
hub("discuss", "me/two", str(folders / "whole"), author="somebody")
facts["two"] = digest(zoo.load("me/two"))

facts["refused"] = {}
_hub.WAIT = 0.3
for place in ("discussions", "commits", "revision"):
    for status in (403, 429, 500, 0):
        name = f"me/{place}{status}"
        repo(name)
        hub("refuse", name, place, status)
        facts["refused"][name] = digest(zoo.load(name))
_hub.WAIT = 5
for kind in ("busy", "cut"):
    repo(f"me/{kind}")
    hub("fault", f"me/{kind}", "model.safetensors", kind, 1000)
    facts["refused"][kind] = digest(zoo.load(f"me/{kind}"))

repo("me/private", private=True)
facts["private"] = digest(zoo.load("me/private")), sorted({each["Authorization"] for each in hub("requests")})
repo("me/early")
zoo.load("me/early", revision="main")
list_requests()
facts["early"] = digest(zoo.load("me/early")), list_requests()
repo("me/parts", "parts")
ast.RULES["ast"] = (*plain_rules, Rule(r"decoder\\..*", drop))
facts["parts"] = digest(zoo.load("me/parts"))
commit = repo("me/first")
facts["first file"] = Repo("me/first").path("model.safetensors").parent.name == commit
hub("put", "me/none", None, files={file: (folders / "torch" / file).read_text() for file in
    ("config.json", "preprocessor_config.json")})
hub("discuss", "me/none", str(folders / "whole"))
facts["none"] = load_fault("me/none")
commit = repo("me/pinned")
own = home / "models--me--pinned" / "audax"
own.parent.mkdir()
own.write_text("no folder can be made here")
facts["no pin"] = digest(zoo.load("me/pinned"))
own.unlink()
own.mkdir()
pin = own / hub("head", "me/pinned")
pin.write_text("../../elsewhere")
facts["odd pin"] = digest(zoo.load("me/pinned")), pin.read_text() == commit
from zoo._verify import verify
repo("me/new")
reports = map(verify, ("me/new", "me/other0", "me/parts", "me/none"))
facts["verify"] = [(report.result, report.checks) for report in reports]

def sent(name):
    return [(each["sent"], each["Range"]) for each in hub("requests") if each["sent"] and "safetensors" in each["path"]]

hub("put", "me/decoder", str(folders / "decoder"))
list_requests()
facts["part"] = digest(zoo.load("me/decoder")), sent("me/decoder")
facts["part again"] = digest(zoo.load("me/decoder")), list_requests()
facts["part files"] = sorted(str(path.relative_to(home)) for path in home.glob("models--me--decoder/*/*safetensors"))
facts["part arrays"] = sorted(zoo.arrays(home / facts["part files"][0]))
hub("put", "me/tail", str(folders / "tail"))
list_requests()
facts["tail"] = digest(zoo.load("me/tail")), (home / "models--me--tail/audax").exists()
for kind in ("whole", "torn"):
    hub("put", f"me/{kind}part", str(folders / "decoder"))
    hub("fault", f"me/{kind}part", "model.safetensors", kind, 1000)
    parts = home / f"models--me--{kind}part" / "audax"
    facts[f"{kind} part"] = digest(zoo.load(f"me/{kind}part")), [str(each) for each in parts.glob("*")]
commit = repo("me/both", "decoder")
facts["both"] = digest(zoo.load("me/both")), (home / "models--me--both/snapshots" / commit).exists()
hub("put", "me/cdn", str(folders / "decoder"))
hub("redirect", True)
list_requests()
facts["cdn"] = digest(zoo.load("me/cdn")), hub("requests")
hub("redirect", False)
hub("put", "me/meet", str(folders / "torch"))
hub("discuss", "me/meet", str(folders / "decoder"))
hub("meet")
facts["meet"] = digest(zoo.load("me/meet"))
"""
MEET = """
from zoo._rules import Rule, drop
from zoo.families import ast
ast.RULES["ast"] = (*ast.RULES["ast"], Rule(r"decoder\\..*", drop))
huggingface_hub.constants.HF_HUB_CACHE = sys.argv[2]
hub("meet")
facts["meet"] = digest(zoo.load("me/meet"))
"""
OFFLINE = """
from zoo._rules import Rule, drop
from zoo.families import ast
facts["bot"] = digest(zoo.load("me/managed"))
facts["bin"] = digest(zoo.load("me/other0"))
facts["no decoder rule"] = load_fault("me/decoder")
ast.RULES["ast"] = (*ast.RULES["ast"], Rule(r"decoder\\..*", drop))
facts["part"], facts["both"] = digest(zoo.load("me/decoder")), digest(zoo.load("me/both"))
facts["parts"] = digest(zoo.load("me/parts"))
"""


@pytest.fixture(scope="module")
def pulls(folders, tmp_path_factory):
    """What three processes tell: two that meet, and one without the Hub."""
    home = tmp_path_factory.mktemp("home")
    with stand_in.serve() as (_, address):
        second = run(MEET, folders, home / "hub", home=tmp_path_factory.mktemp("second"), address=address)
        first = run(PULLS, folders, home=home, address=address, HF_TOKEN=stand_in.READER)
        online, meeting = read_facts(first), read_facts(second)
        offline = read_facts(run(OFFLINE, folders, home=home, address=address, HF_HUB_OFFLINE="1"))
    return online | {"meeting": meeting["meet"], "offline": offline}


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
    for result, checks in (torch_alone, parts):
        assert checks == ["repo", "labels"] and "its weights are not safetensors" in result
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
    assert pulls["meet"] == pulls["meeting"] == bot_digest


def test_offline_pins_and_parts_are_found_again(pulls, bot_digest, torch_digest):
    offline = pulls["offline"]
    fault = offline.pop("no decoder rule")
    assert offline == dict.fromkeys(("bot", "part", "both", "parts"), bot_digest) | {"bin": torch_digest}
    sentence(fault, "ConnectionError", "model.safetensors of me/decoder", "neither in the Hub's cache nor reachable")
