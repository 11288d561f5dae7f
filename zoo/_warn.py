"""Warnings that name the user's line."""

import sys
import warnings

OURS = ("zoo", "audax_eqx", "jaxtyping", "equinox", "jax")


def warn_user(text: str) -> None:
    """Warns at the user's line that called the zoo: skips the frames of the zoo, of the type checker and of JAX."""
    frame, level = sys._getframe(1), 2
    while frame is not None and _is_ours(frame.f_code.co_filename, frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)


def _is_ours(file: str, module: str) -> bool:
    return file.startswith("<@beartype") or module.partition(".")[0] in OURS
