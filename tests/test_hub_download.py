"""Faults on the way from the Hub: downloads that are cut, files that lie, caches that cannot be written, full disks."""

import contextlib
import subprocess

import hub
import pytest
from hub import digest, leaves, read_facts, run, sentence

clip, folder, server = hub.clip, hub.folder, hub.server


FAULTY = """
time.sleep = lambda seconds: None  # between the client's attempts
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 512
def put(name, *arguments, **options):
    hub("put", name, folder, **options)
    if arguments:
        hub("fault", name, *arguments)
    list_requests()

put("me/cut", "model.safetensors", "cut")
facts["cut"] = digest(zoo.load("me/cut")), [each["Range"] for each in hub("requests") if each["Range"]]
put("me/dead", "model.safetensors", "cut", 1000)
facts["dead"] = load_fault("me/dead"), [str(path) for path in home.rglob("*.incomplete")]
hub("fault", "me/dead", "model.safetensors", "cut", 0)
facts["alive"] = digest(zoo.load("me/dead"))
put("me/short", "model.safetensors", "short")
facts["short"] = load_fault("me/short")
put("me/moves", "config.json", "moves")
facts["moved"] = digest(zoo.load("me/moves"))

blob = (home / "models--me--cut/snapshots").glob("*/model.safetensors").__next__().resolve()
blob.write_bytes(blob.read_bytes()[:-100])
facts["broken"], facts["blob"] = load_fault("me/cut"), str(blob)
os.remove(re.search("delete (.*) and fetch", facts["broken"][1])[1])
facts["mended"] = digest(zoo.load("me/cut"))

put("me/huge", "config.json", "huge")
facts["huge"] = load_fault("me/huge"), list_requests()
put("me/grown")
zoo.load("me/grown")
put("me/grown", "config.json", "huge")
facts["grown"] = load_fault("me/grown"), list_requests()
put("me/unsized", "config.json", "unsized")
facts["unsized"] = load_fault("me/unsized")
put("me/weights", "model.safetensors", "huge")
facts["small weights"] = load_fault("me/weights")

put("me/stuck")
zoo.load("me/stuck")
locks = home / ".locks" / "models--me--stuck"
shutil.rmtree(locks)
locks.write_text("nothing can be written where a folder is needed")
config = (pathlib.Path(folder) / "config.json").read_text().replace('"tiny"', '"newer"')
hub("put", "me/stuck", None, files={"config.json": config})
with warnings.catch_warnings(record=True) as messages:
    warnings.simplefilter("always")
    clip = zoo.load("me/stuck")
facts["stuck"] = clip.entry.name, digest(clip), [str(each.message) for each in messages]

put("me/labels")
facts["labels"] = [(download_once("me/labels", "config.json").name, list_requests()) for _ in range(2)]
facts["counted"] = load_fault("convnext_audioset"), list_requests()
facts["not counted"] = load_fault("convnext_audioset", revision="1" * 40), list_requests()
facts["here"], facts["home"] = os.listdir("."), os.listdir(home.parent)

hub("meet")
facts["both"] = digest(zoo.load("me/both"))
"""
FULL = """
if sys.argv[3] == "small":
    os.makedirs(home)
    facts["fetched"] = load_fault("me/both")
    clip = zoo.load("resnet_esc10")
    facts["saved"] = fault(zoo.save, home.parent / "model", clip.model, clip.state, clip.entry)
    facts["left"] = os.listdir(home.parent / "model")
huggingface_hub.constants.HF_HUB_CACHE = sys.argv[2]
hub("meet")
facts["both"] = digest(zoo.load("me/both"))
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
    workdir, home, small = (tmp_path_factory.mktemp(name) for name in ("here", "faulty", "small"))
    prefix = small_disk(small)
    full = run(FULL, folder, home / "hub", "small" if prefix else "none", home=small, address=address, prefix=prefix)
    with contextlib.chdir(workdir):
        faulty = run(FAULTY, folder, home=home, address=address)
    return read_facts(faulty), read_facts(full)


@pytest.fixture(scope="module")
def faulty(both):
    return both[0]


def test_a_download_that_is_cut_goes_on_where_it_was(faulty, clip):
    weights, ranges = faulty["cut"]
    assert weights == digest(leaves(clip))
    assert len(ranges) == 1 and int(ranges[0].removeprefix("bytes=").removesuffix("-")) > 0


def test_a_download_that_stays_cut_leaves_nothing_and_the_next_load_is_right(faulty, clip):
    fault, files = faulty["dead"]
    sentence(fault, "ConnectionError", "model.safetensors of me/dead", "nor reachable")
    assert files == []
    assert faulty["alive"] == digest(leaves(clip))


def test_another_size_than_the_hub_told_is_an_error(faulty):
    sentence(faulty["short"], "ConnectionError", "model.safetensors of me/short", "another size", "load it again")


def test_all_files_of_a_model_are_of_one_commit(faulty, clip):
    assert faulty["moved"] == digest(leaves(clip))


def test_a_broken_file_in_the_cache_is_named_and_fetched_anew_once_deleted(faulty, clip):
    sentence(faulty["broken"], "ValueError", "not a whole safetensors file", f"delete {faulty['blob']} and")
    assert faulty["mended"] == digest(leaves(clip))


def test_labels_of_another_repo_are_fetched_once_and_not_asked_for_again(faulty):
    (first, requests), (again, nothing) = faulty["labels"]
    assert first == again == "config.json" and {method for method, _ in requests} == {"HEAD", "GET"} and nothing == []


def test_a_file_too_large_to_be_what_it_is_called_is_refused(faulty):
    for name in ("huge", "grown"):  # the second was small when it was fetched before
        fault, requests = faulty[name]
        sentence(
            fault, "ValueError", f"config.json of me/{name} has 1000 MB, and the zoo reads config.json up to 17 MB"
        )
        assert {method for method, _ in requests} == {"HEAD"}
    sentence(faulty["unsized"], "ValueError", "config.json has 20 MB, and the zoo reads config.json up to 17 MB")
    assert "1000 MB" not in faulty["small weights"][1]  # weights may be that large; these do not come


def test_foreign_checkpoints_count_as_downloads_too(faulty):
    fault, requests = faulty["counted"]
    sentence(fault, "FileNotFoundError", "topel/ConvNeXt-Tiny-AT")
    assert requests[0] == ["HEAD", "/topel/ConvNeXt-Tiny-AT/resolve/main/config.json"]
    assert not [path for _, path in faulty["not counted"][1] if path.endswith("config.json")]


def test_where_the_cache_cannot_be_written_the_older_version_in_it_is_loaded_with_a_warning(faulty, clip):
    name, weights, messages = faulty["stuck"]
    assert (name, weights) == ("tiny", digest(leaves(clip)))
    assert any("me/stuck has changed on the Hub" in each and "cannot be written" in each for each in messages)


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
