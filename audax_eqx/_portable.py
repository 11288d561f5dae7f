"""Two ways to run one computation: one that XLA runs fast on the device at hand, and one of plain operations.

`portable(True)` is a context in which JAX traces all functions of this package with plain operations alone. Runtimes
other than XLA have these operations too: `zoo.export` opens the context to write ONNX. The context is part of the key
of `jax.jit`'s caches, so JAX traces a function anew if it was traced outside of the context before.
"""

from collections.abc import Callable
from typing import Any

import jax

portable = jax.make_user_context(default_value=False)


def by_platform(*arguments: Any, default: Callable, plain: Callable | None = None, **platforms: Callable) -> Any:
    """Runs the function for the platform of the program, `cpu` or `cuda`, or else `default`, on the arguments.

    A portable program runs `plain` instead, or `default` if `plain` is None.
    """
    if portable.value:
        return (plain or default)(*arguments)
    return jax.lax.platform_dependent(*arguments, default=default, **platforms)
