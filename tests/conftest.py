"""Strict numerics on eight host devices, and the folder of oracles and recordings beside the repository."""

import contextlib
import ctypes
import gc
import os
import pathlib
import shutil
import sys
import tempfile
from importlib.metadata import version

# Nearly all the time of the tests is LLVM's: without its optimisations, and with the older way to write fusions where
# it is known to be there (an unknown flag ends the process), the same programs compile in a third of it
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10.")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it each command that a test starts compiles the packages anew
# Tests leave the user's cache of programs alone. Workers, the commands that they start, and later runs share a folder
# beside the environment's packages, so that each program is compiled once: JAX knows it by its code, flags and version.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    os.path.join(sys.prefix if sys.prefix != sys.base_prefix else tempfile.gettempdir(), "audax-test-programs"),
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import pytest
import soundfile

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def shared() -> pathlib.Path:
    """Oracles and real recordings, where the machine has them."""
    folder = pathlib.Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("the folder ../shared with oracles and recordings is not here")
    return folder


@pytest.fixture(scope="session")
def clock(tmp_path_factory) -> pathlib.Path:
    """The packaged sound, as a WAV file."""
    import zoo

    path = tmp_path_factory.mktemp("sounds") / "clock.wav"
    soundfile.write(path, *soundfile.read(zoo.example(), dtype="float32"))
    return path


@pytest.fixture
def workdir(tmp_path, monkeypatch) -> pathlib.Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sound(clock, tmp_path, monkeypatch) -> pathlib.Path:
    """The packaged sound as `demo/clock.wav` in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "demo" / "clock.wav"
    path.parent.mkdir()
    return pathlib.Path(shutil.copy(clock, path))


@pytest.fixture
def programs():
    """How many programs were compiled so far."""
    names = []
    listener = lambda name, *_, **__: names.append(name) if name.endswith("backend_compile_duration") else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    yield lambda: len(names)
    jax.monitoring.unregister_event_duration_listener(listener)


@pytest.fixture(autouse=True, scope="module")
def no_programs():
    """Forgets a file's compiled programs: each has maps of memory, and Linux ends a process with 65,530 of them."""
    yield
    forget()


@pytest.fixture(autouse=True)
def little_memory():
    """Forgets compiled programs within a file, too, where the worker has grown beyond 2 GB."""
    yield
    pages = pathlib.Path("/proc/self/statm")
    if pages.exists() and int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > 2e9:
        forget()


def forget():
    """Compiled programs go, and the memory that they leave goes back to the system."""
    jax.clear_caches()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc has it
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(autouse=True)
def no_lengths(monkeypatch):
    """Each test begins as a process that has heard no wave: the warning of many lengths counts by a model's name."""
    if "zoo._wave" in sys.modules:
        monkeypatch.setattr(sys.modules["zoo._wave"], "_lengths", {})
