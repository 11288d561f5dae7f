"""Two roads through one computation: one that XLA runs fast on the device at hand, and one of plain operations.

`portable(True)` is a context in which all functions of this package are traced by plain operations alone, which other
runtimes than XLA have too: `zoo.export` opens it to write ONNX. It is part of the key of `jax.jit`'s caches, so that a
function that was traced outside of it is traced anew.
"""

from collections.abc import Callable
from typing import Any

import jax

portable = jax.make_user_context(default_value=False)


def by_platform(*arguments: Any, default: Callable, plain: Callable | None = None, **platforms: Callable) -> Any:
    """The result of the function for the platform that the program runs on, `cpu` or `cuda`, or of `default`.

    In a portable program it is that of `plain`, or of `default` where there is no `plain`.
    """
    if portable.value:
        return (plain or default)(*arguments)
    return jax.lax.platform_dependent(*arguments, default=default, **platforms)
