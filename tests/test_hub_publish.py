"""Publishing to the Hub and loading from it, by the real client against a stand-in (tests/hub.py).

The scenarios share one process, since its imports alone take three seconds: its script notes facts, and the tests look
at them.
"""

import json

import hub
import hub as stand_in
import numpy as np
import pytest
from hub import digest, leaves, read_facts, run, sentence

from zoo._card import is_generated

clip, folder, server = hub.clip, hub.folder, hub.server


ONLINE = """
time.sleep = lambda seconds: None  # between the client's attempts
clip = zoo.load(folder)
entry = clip.entry
facts["dry run"] = zoo.publish("me/tiny", clip.model, clip.state, entry, private=True, dry_run=True), list_requests()
facts["url"] = zoo.publish("me/tiny", clip.model, clip.state, entry, private=True, dtype="float16")
facts["publishing"] = hub("requests")
facts["again"] = zoo.publish("me/tiny", clip.model, clip.state, entry, private=True, dtype="float16"), list_requests()

import contextlib, io
from zoo.__main__ import main
def command(*arguments):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(arguments)
    return code, out.getvalue(), err.getvalue()
facts["command"] = command("publish", folder, "me/whole"), command("publish", folder, "me/whole")
facts["sent"] = {file: hub("file", "me/whole", file) for file in ("config.json", "README.md")}
facts["branch"] = command("publish", folder, "me/tiny", "--revision", "v1")
facts["no name"] = command("publish", folder, "tiny")
facts["private now"] = command("publish", folder, "me/whole", "--private")
hub("put", "me/whole", files={"README.md": "written on the Hub"})
from dataclasses import replace
zoo.publish("me/whole", clip.model, clip.state, replace(entry, labels=("x", "y", "z")))
facts["card on the Hub"] = hub("file", "me/whole", "README.md"), "x" in hub("file", "me/whole", "config.json")
hub("put", "me/busy", files={"README.md": "written on the Hub"})
hub("fault", "me/busy", "README.md", "busy")
facts["busy"] = fault(zoo.publish, "me/busy", clip.model, clip.state, entry), hub("file", "me/busy", "README.md")
token = os.environ.pop("HF_TOKEN")
facts["no token"] = fault(zoo.publish, "me/tiny", clip.model, clip.state, entry), load_fault("me/tiny")
os.environ["HF_TOKEN"] = "hf_reader"
facts["reader"] = fault(zoo.publish, "me/tiny", clip.model, clip.state, entry)
os.environ["HF_TOKEN"] = token

list_requests()
other = zoo.load("me/tiny", verify=True)
facts["loaded"] = digest(other), other.entry.license, hub("requests")
import jax
model = other.thaw(classes=2, key=jax.random.key(0))
zoo.save(home.parent / "tuned", *model, model.entry)
facts["tuned"] = model.entry.base, [(home.parent / "tuned" / file).read_text() for file in ("README.md", "config.json")]
zoo.load("me/tiny")
facts["loaded again"] = list_requests()
old, new = facts["url"][-40:], facts["branch"][1].strip()[-40:]
facts["v1"] = digest(zoo.load("me/tiny", revision="v1")), digest(zoo.load("me/tiny", revision=new))
list_requests()
facts["pinned"] = digest(zoo.load("me/tiny", revision=old)), list_requests()
facts["snapshot"] = digest(zoo.load(home / "models--me--tiny" / "snapshots" / new))

facts["no repo"] = load_fault("me/none")
facts["no revision"] = load_fault("me/tiny", revision="v9")
hub("put", "me/bare", files={"config.json": hub("file", "me/whole", "config.json")})
facts["no weights"] = load_fault("me/bare")
hub("put", "me/old", files={"config.json": hub("file", "me/whole", "config.json"), "pytorch_model.bin": "x"})
facts["broken pickle"] = load_fault("me/old")
old = home.parent / "old"
shutil.copytree(folder, old)
(old / "model.safetensors").rename(old / "pytorch_model.bin")  # what it is, its content tells
hub("put", "me/bin", str(old))
facts["bin"] = digest(zoo.load("me/bin"))
hub("put", "me/gated", folder, gated=True)
facts["gated"] = load_fault("me/gated")
facts["odd name"] = load_fault("me/a--..b")

hub("put", "me/cdn", folder)
hub("redirect", True)
list_requests()
facts["cdn"] = digest(zoo.load("me/cdn")), hub("requests")
hub("redirect", False)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def online(server, folder, home):
    return read_facts(run(ONLINE, folder, home=home, address=server[1], HF_TOKEN=stand_in.TOKEN))


FILES = {"config.json", "model.safetensors", "preprocessor_config.json", "golden.safetensors", "README.md"}


def test_a_dry_run_lists_the_files_and_asks_nothing(online):
    text, requests = online["dry run"]
    assert requests == []
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
    commits = [each for each in online["publishing"] if "/commit/" in each["path"]]
    assert len(commits) == 1
    about_it = [each for each in online["publishing"] if "me/tiny" in each["path"] or "create" in each["path"]]
    assert {each["Authorization"] for each in about_it} == {f"Bearer {stand_in.TOKEN}"}
    assert all("audax-eqx/" in each["User-Agent"] for each in commits)
    assert 'zoo.load("me/tiny")' in repo.commits[commit]["README.md"].decode()
    assert is_generated(repo.commits[commit]["README.md"])


def test_publishing_the_same_again_makes_no_commit(online):
    url, requests = online["again"]
    assert url == online["url"]
    assert not [path for _, path in requests if "/commit/" in path]


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
    process = run("facts['dead'] = load_fault('me/tiny')", "", home=tmp_path, address="http://127.0.0.1:9")
    out, errors = process.communicate(timeout=600)
    sentence(json.loads(out.splitlines()[-1])["dead"], "ConnectionError", "neither in the Hub's cache nor reachable")
    assert errors == ""


def test_every_load_asks_for_the_config_and_then_for_one_commit(online):
    first, second = online["loaded"][2], online["loaded again"]
    assert {each["Authorization"] for each in first} == {f"Bearer {stand_in.TOKEN}"}
    assert all("audax-eqx/" in each["User-Agent"] for each in first)
    commit = online["url"][-40:]
    contents = [each["path"] for each in first if each["method"] == "GET"]
    assert contents[0].startswith("/me/tiny/resolve/") and contents[0].endswith("/config.json")
    assert contents[1:] == [f"/me/tiny/resolve/{commit}/{file}" for file in ("model.safetensors", "golden.safetensors")]
    assert second == [["HEAD", "/me/tiny/resolve/main/config.json"]]


def test_what_the_hub_does_not_have_is_told_in_one_sentence(online):
    sentence(online["no repo"], "FileNotFoundError", "The Hub has no public repo me/none")
    sentence(online["no revision"], "FileNotFoundError", "me/tiny has no revision v9")
    sentence(online["no weights"], "FileNotFoundError", "me/bare has no model.safetensors at revision")
    sentence(
        online["broken pickle"], "ValueError", "pytorch_model.bin is neither a safetensors file nor one that torch"
    )
    sentence(online["gated"], "PermissionError", "me/gated is gated", "HF_TOKEN")
    sentence(online["odd name"], "ValueError", "'me/a--..b' is not the name of a Hub repo")


def test_the_token_stays_with_the_hub_when_files_lie_elsewhere(online, clip):
    weights, requests = online["cdn"]
    assert weights == digest(leaves(clip))
    hosts = {each["host"]: set() for each in requests}
    for each in requests:
        hosts[each["host"]].add(each["Authorization"])
    assert hosts == {"127.0.0.1": {f"Bearer {stand_in.TOKEN}"}, "localhost": {None}}


OFFLINE = """
facts["cached"] = digest(zoo.load("me/tiny", verify=True)), digest(zoo.load("me/tiny", revision="v1"))
facts["none"] = load_fault("me/new")
facts["other revision"] = load_fault("me/tiny", revision="v9")
facts["bin"] = digest(zoo.load("me/bin"))
clip = zoo.load(folder)
facts["publish"] = fault(zoo.publish, "me/tiny", clip.model, clip.state, clip.entry)
facts["requests"] = list_requests()
"""


def test_offline_the_cache_is_all_there_is(online, server, folder, home):
    server[0].requests()
    offline = read_facts(run(OFFLINE, folder, home=home, address=server[1], HF_HUB_OFFLINE="1"))
    assert offline["cached"] == [online["loaded"][0], online["v1"][0]]
    assert offline["bin"] == online["bin"] == online["v1"][0]
    for case in ("none", "other revision"):
        sentence(offline[case], "ConnectionError", "neither in the Hub's cache nor reachable", "resnet_esc10")
    sentence(offline["publish"], "ConnectionError", "me/tiny is not published", "unset HF_HUB_OFFLINE")
    assert offline["requests"] == []
