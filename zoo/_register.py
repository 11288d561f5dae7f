"""What an entry may name: the library's frontends, networks and models, and the user's own, in this process alone."""

import functools
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import equinox as eqx
from jaxtyping import Array, PRNGKeyArray

from audax_eqx import AbstractFrontend, AbstractNetwork, frontends, models, networks

Constructor = TypeVar("Constructor")
LIBRARIES = {AbstractFrontend: frontends, AbstractNetwork: networks, eqx.Module: models}  # the last takes all others
_own: dict[str, Any] = {}


@runtime_checkable
class Model(Protocol):
    """What `audax_eqx.models` has, `Classifier`, `COLA` and `SimCLR`, or a class of your own that was registered."""

    @property
    def frontend(self) -> AbstractFrontend: ...

    @property
    def network(self) -> AbstractNetwork: ...

    def listen(self, wave: Any) -> Array:
        """The frontend's features, in the dtype that the network computes in."""
        ...

    def embed(self, wave: Any, state: eqx.nn.State, *, key: PRNGKeyArray | None = None) -> tuple[Array, eqx.nn.State]:
        """The network's output."""
        ...

    def __call__(
        self, wave: Any, state: eqx.nn.State, *, key: PRNGKeyArray | None = None
    ) -> tuple[Array, eqx.nn.State]:
        """Logits, or what a contrastive model compares clips by."""
        ...


def register(constructor: Constructor, name: str | None = None) -> Constructor:
    """Makes a frontend, a network or a model of your own known in this process, and returns it: a decorator.

    It is a class, known by its own name unless `name` is given, or a `functools.partial` of one, which needs a `name`.
    From then on an `Entry` may name it, `{"type": "MyFrontend", "sample_rate": 16000, ...}`: the options are the
    keywords of its constructor, and have to be what JSON holds. A constructor that draws weights takes `key`, too; a
    model's takes `frontend` and `network`, and `classes`, `dropout` and `task` if it classifies.

    Nothing is imported because a file says so: a folder that names it loads after it was registered. Raises TypeError
    for what is none of the three or lacks a part, and ValueError for a name that is taken.
    """
    made = _made(constructor)
    library = _library(made)
    name = getattr(constructor, "__name__", None) if name is None else name
    if not (isinstance(name, str) and name):
        raise TypeError(
            f"zoo.register takes a functools.partial with a name, got none for {made.__name__}: "
            'zoo.register(..., name="my_network").'
        )
    if missing := _missing(made, library):
        raise TypeError(f"{made.__qualname__} lacks {', '.join(missing)}, without which the zoo cannot use it: add it.")
    for taken in LIBRARIES.values():
        other = constructor_of(taken, name)
        if other is not None and not _same(other, constructor):
            raise ValueError(
                f"{name} is the name of {_described(other)} already, and cannot be that of "
                f'{_described(constructor)}, too: give it another one, zoo.register(..., name="...").'
            )
    _own[name] = constructor
    return constructor


def constructor_of(library: types.ModuleType, name: str) -> Callable | None:
    """What `audax_eqx.frontends`, `.networks` or `.models` has by that name, or what is registered of its kind.

    None where there is no such constructor. Of the library nothing else is imported.
    """
    constructor = _own.get(name)
    if constructor is None and name in dir(library):
        constructor = getattr(library, name)
    return constructor if _constructs(constructor, library) else None


def constructors(library: types.ModuleType) -> list[str]:
    """The names of all that `constructor_of` gives."""
    return sorted(name for name in {*dir(library), *_own} if constructor_of(library, name) is not None)


def _constructs(constructor: Any, library: types.ModuleType) -> bool:
    made = _made(constructor)
    return isinstance(made, type) and issubclass(made, eqx.Module) and _library(made) is library


def _made(constructor: Any) -> Any:
    """The class of which it makes instances."""
    return constructor.func if isinstance(constructor, functools.partial) else constructor


def _library(made: Any) -> types.ModuleType:
    if not (isinstance(made, type) and issubclass(made, eqx.Module)):
        raise TypeError(
            "zoo.register takes a class that is an AbstractFrontend, an AbstractNetwork or an eqx.Module with a "
            f"frontend and a network, or a functools.partial of one, got {made!r}."
        )
    return next(library for abstract, library in LIBRARIES.items() if issubclass(made, abstract))


def _missing(made: type, library: types.ModuleType) -> list[str]:
    """The parts of its kind that a class does not have."""
    missing = {*getattr(made, "__abstractmethods__", ()), *getattr(made, "__abstractvars__", ())}
    if library is models:
        parts = {name for each in made.__mro__ for name in (*vars(each), *inspect.get_annotations(each))}
        missing |= {"frontend", "network", "listen", "embed", "__call__"} - parts
    return sorted(missing)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, functools.partial) and isinstance(other, functools.partial):
        return (one.func, one.args, one.keywords) == (other.func, other.args, other.keywords)
    typed_in = not hasattr(sys.modules["__main__"], "__file__") and _made(other).__module__ == "__main__"
    return one is other or (typed_in and _described(one) == _described(other))  # a cell that is run again


def _described(constructor: Any) -> str:
    made = _made(constructor)
    return f"{made.__module__}.{made.__qualname__}"
