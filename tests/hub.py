"""A stand-in for the Hugging Face Hub on this machine, and processes in which the real client asks it."""

import contextlib
import functools
import hashlib
import http.server
import json
import pathlib
import shutil
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from hub_http import Handler
from hub_repos import READER as READER
from hub_repos import TOKEN as TOKEN
from hub_repos import Hub
from processes import environment

import zoo
from zoo._leaves import named_leaves

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
facts = {}
home = pathlib.Path(os.environ["HF_HOME"]) / "hub"
def hub(method, *arguments, **options):
    address = os.environ["HF_ENDPOINT"] + "/stand-in/" + method
    with urllib.request.urlopen(address, json.dumps([arguments, options]).encode()) as answer:
        return json.loads(answer.read())
def list_requests():
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


def run(code, *arguments, home, address, prefix=(), **variables):
    """A process that tells, as JSON in its last line, what the code put into `facts`."""
    settings = {"HF_HOME": str(home), "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1"}
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", f"{PRELUDE}{code}\nprint(json.dumps(facts))", *map(str, arguments)],
        env=environment(**settings | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"} | variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_facts(process):
    """The facts of a process that `run` began."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def digest(leaves):
    arrays = (np.asarray(leaf) for _, leaf in sorted(leaves.items()))
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def leaves(clip):
    return named_leaves(clip.model, clip.state)


def sentence(fault, kind, *parts):
    """That it is one sentence of this kind, with these parts."""
    actual, message = fault
    assert actual == kind, message
    assert "\n" not in message and message.endswith(".") and len(message) < 600
    for part in parts:
        assert part in message


@contextlib.contextmanager
def serve():
    """A Hub and its address."""
    hub = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


@functools.cache
def create_once():
    """The tiny model, one for all the files of tests that a process runs."""
    return zoo.Pretrained(*zoo.create(TINY, key=jax.random.key(0)), TINY)


@functools.cache
def save_once(root):
    """Its folder."""
    path, clip = root / "tiny_hub", create_once()
    zoo.save(path, clip.model, clip.state, TINY)
    return path


@pytest.fixture(scope="module")
def clip():
    return create_once()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_once(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def server():
    with serve() as (hub, address):
        yield hub, address


@pytest.fixture
def copy(tmp_path_factory, tmp_path):
    return pathlib.Path(shutil.copytree(save_once(tmp_path_factory.getbasetemp()), tmp_path / "copy"))
