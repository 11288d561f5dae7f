"""Answers of the Hub that refuse a request: each becomes a sentence with its cause, or leaves the cached model."""

import json
import struct

import hub
import pytest
from hub import TOKEN, digest, leaves, read_facts, run, sentence

clip, folder, server = hub.clip, hub.folder, hub.server

REFUSALS = """
from zoo._hub import metadata, safetensors_header
time.sleep = lambda seconds: None  # between the client's attempts
hub("put", "me/plain", folder)
for kind in ("expired", "forbidden", "limited"):
    hub("put", f"me/{kind}", folder)
    hub("fault", f"me/{kind}", "config.json", kind, 1000)
    facts[kind] = load_fault(f"me/{kind}", revision="main")
hub("put", "me/stale", folder)
zoo.load("me/stale")
hub("put", "me/stale", None, files={"more.txt": "another commit"})
hub("fault", "me/stale", "config.json", "expired", 1000)
with warnings.catch_warnings(record=True) as messages:
    warnings.simplefilter("always")
    facts["stale"] = digest(zoo.load("me/stale")), [str(each.message) for each in messages]
facts["revision"] = load_fault("me/plain", revision="nope"), fault(metadata, "me/plain", "nope")
for name, header in json.loads(sys.argv[2]).items():
    hub("put", f"me/{name}", None, files={"model.safetensors": header})
    facts[name] = fault(safetensors_header, f"me/{name}", "model.safetensors", None)
hub("put", "me/number", None, files={"README.md": "---\\nlicense: 1\\n---\\n", "config.json": "{}"})
facts["licence"] = list(metadata("me/number").licenses)
hub("put", "me/gated", folder, gated=True)
facts["gated"] = load_fault("me/gated")
os.makedirs("gone")
os.chdir("gone")
os.rmdir("../gone")
facts["nowhere"] = digest(zoo.load("me/plain"))
"""


@pytest.fixture(scope="module")
def facts(server, folder, tmp_path_factory):
    address = server[1]
    headers = {name: json.dumps(header) for name, header in {"list": [1, 2], "number": {"a": 3}}.items()}
    files = {f"header-{name}": struct.pack("<Q", len(text)).decode("latin-1") + text for name, text in headers.items()}
    home = tmp_path_factory.mktemp("home")
    return read_facts(run(REFUSALS, folder, json.dumps(files), home=home, address=address, HF_TOKEN=TOKEN))


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("expired", ("refuses to send config.json of me/expired (401", "check HF_TOKEN")),
        ("forbidden", ("refuses to send config.json of me/forbidden (403", "check HF_TOKEN")),
        ("limited", ("refuses to send config.json of me/limited (429", "wait some minutes")),
    ],
)
def test_a_refusal_names_its_cause(facts, kind, parts):
    sentence(facts[kind], "PermissionError", *parts)


def test_a_cached_model_loads_with_a_warning(facts, clip):
    loaded, (warning,) = facts["stale"]
    assert loaded == digest(leaves(clip))
    assert "(401" in warning and warning.endswith("This is the version in the cache.")


def test_an_unknown_revision_is_named(facts):
    for fault in facts["revision"]:
        sentence(fault, "FileNotFoundError", "The Hub's repo me/plain has no revision nope")


@pytest.mark.parametrize("name", ["header-list", "header-number"])
def test_a_header_that_describes_no_arrays_is_the_files_fault(facts, name):
    sentence(facts[name], "ValueError", f"model.safetensors of me/{name} does not begin like a safetensors file")


def test_a_licence_that_is_a_number_is_read_as_a_text(facts):
    assert facts["licence"] == ["1"]


def test_the_error_of_a_gated_repo_speaks_of_no_folder(facts):
    sentence(facts["gated"], "PermissionError", "me/gated is gated")
    assert "folder" not in facts["gated"][1]


def test_a_model_loads_in_a_working_directory_that_is_gone(facts, clip):
    assert facts["nowhere"] == digest(leaves(clip))
