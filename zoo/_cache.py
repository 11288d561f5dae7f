"""The cache of compiled programs: one folder per user, so that each program is compiled once.

    Linux    $XDG_CACHE_HOME/audax-eqx/jax, or ~/.cache/audax-eqx/jax
    macOS    ~/Library/Caches/audax-eqx/jax
    Windows  %LOCALAPPDATA%/audax-eqx/jax

JAX_COMPILATION_CACHE_DIR names another folder, and AUDAX_CACHE=off turns the cache off. The folder may be removed at
any time.
"""

import contextlib
import os
import pathlib
import sys


def folder() -> pathlib.Path | None:
    """The folder of this user; None if the user has no home."""
    variable, default = {
        "darwin": ("", "~/Library/Caches"),
        "win32": ("LOCALAPPDATA", "~/AppData/Local"),
    }.get(sys.platform, ("XDG_CACHE_HOME", "~/.cache"))
    root = pathlib.Path(os.environ.get(variable, ""))
    if not root.is_absolute():  # XDG ignores an empty or relative path
        root = pathlib.Path(os.path.expanduser(default))
    return root / "audax-eqx" / "jax" if root.is_absolute() else None


def keep_programs() -> None:
    """Tells JAX to keep compiled programs in the folder. Does nothing if the folder cannot be written."""
    if os.environ.get("AUDAX_CACHE", "").lower() == "off":
        _configure("jax_enable_compilation_cache", "false")
        return
    path = folder()
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or path is None:
        return
    with contextlib.suppress(OSError):
        path.mkdir(parents=True, exist_ok=True)
    if os.access(path, os.W_OK):
        _configure("jax_compilation_cache_dir", str(path))


def _configure(option: str, value: str) -> None:
    """Sets an option of JAX without importing JAX: on its import, JAX reads the option from the environment."""
    if "jax" in sys.modules:
        import jax

        jax.config.update(option, value != "false" and value)
    else:
        os.environ[option.upper()] = value
