"""The type checker behind jaxtyping's import hook: beartype, for which a whole number is a float too.

It makes a function's checks when the function is first called: to make them all would take up a third of the import.
"""

import functools
from collections.abc import Callable
from typing import Any


def typecheck(function: Callable) -> Callable:
    """`function` with its arguments and result checked against its annotations."""
    beartyped = None

    @functools.wraps(function)
    def checked(*arguments: Any, **keywords: Any) -> Any:
        nonlocal beartyped
        if beartyped is None:
            from beartype import BeartypeConf, beartype

            beartyped = beartype(conf=BeartypeConf(is_pep484_tower=True))(function)
        return beartyped(*arguments, **keywords)

    return checked
