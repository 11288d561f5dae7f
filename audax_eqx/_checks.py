"""Checks of arguments, whose errors are one sentence."""

from collections.abc import Iterable
from typing import Any


def require(condition: bool, message: str) -> None:
    """Raises ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def require_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raises ValueError with the argument's name, its value and the choices unless the value is one of them."""
    choices = tuple(choices)
    require(value in choices, f"unknown {name} {value!r}: expected one of {', '.join(map(repr, choices))}")
