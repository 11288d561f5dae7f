"""Where compiled programs are kept: in the user's folder, wherever that is, or nowhere."""

import os
import pathlib
import subprocess
import sys

import pytest

from zoo import _cache as cache

SCRIPT = "import jax; from zoo._cache import keep_programs as k; k(); print(jax.config.jax_compilation_cache_dir)"


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "/home/me/.cache/audax-eqx/jax"),
        ("linux", {"XDG_CACHE_HOME": "/fast"}, "/fast/audax-eqx/jax"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/audax-eqx/jax"),
        ("darwin", {"XDG_CACHE_HOME": "/fast"}, "/home/me/Library/Caches/audax-eqx/jax"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/audax-eqx/jax"),
    ],
)
def test_the_folder_is_the_platforms(platform, variables, expected, monkeypatch):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    for name, value in ({"HOME": "/home/me"} | variables).items():
        monkeypatch.setenv(name, value)
    assert cache.folder() == pathlib.Path(expected)


def kept(**variables):
    """Where a fresh process keeps programs."""
    variables_of_cache = ("AUDAX_CACHE", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR")
    clean = {name: value for name, value in os.environ.items() if name not in variables_of_cache}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=clean | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_programs_are_kept_where_the_user_says(tmp_path):
    assert kept(XDG_CACHE_HOME=str(tmp_path)) == str(tmp_path / "audax-eqx" / "jax")
    own = str(tmp_path / "own")
    assert kept(XDG_CACHE_HOME=str(tmp_path), JAX_COMPILATION_CACHE_DIR=own) == own
    assert kept(XDG_CACHE_HOME=str(tmp_path), AUDAX_CACHE="off") == "None"
    (tmp_path / "file").touch()
    assert kept(XDG_CACHE_HOME=str(tmp_path / "file")) == "None"
