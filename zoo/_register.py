"""The names in an entry: the frontends, networks and models of the library, and those that users register."""

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
# A class belongs to the first that fits: models come last, because all classes are modules
LIBRARIES = {AbstractFrontend: frontends, AbstractNetwork: networks, eqx.Module: models}
_own: dict[str, Any] = {}


@runtime_checkable
class Model(Protocol):
    """A model: `Classifier`, `COLA`, `SimCLR` or another of `audax_eqx.models`, or a registered class of your own."""

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
        """Logits, or the projection by which a contrastive model compares clips."""
        ...


def register(constructor: Constructor, name: str | None = None) -> Constructor:
    """Registers a frontend, network or model of your own in this process, and returns it, so that it is a decorator.

    `constructor` is a class, registered under its own name unless `name` is given, or a `functools.partial` of a class,
    which needs a `name`. From then on an `Entry` may name it, `{"type": "MyFrontend", "sample_rate": 16000, ...}`: the
    options are the keywords of its constructor, and must be values of JSON. A constructor that draws weights also takes
    `key`; a model's takes `frontend` and `network`, and `classes`, `dropout` and `task` if it classifies.

    No file can cause an import: a folder that names your class loads only after you have registered it. Raises
    TypeError for another kind of class or one that lacks a part, and ValueError for a name that is taken.
    """
    cls = _class_of(constructor)
    library = _library(cls)
    name = getattr(constructor, "__name__", None) if name is None else name
    if not (isinstance(name, str) and name):
        raise TypeError(
            f"zoo.register takes a functools.partial with a name, got none for {cls.__name__}: "
            'zoo.register(..., name="my_network").'
        )
    if missing := _missing(cls, library):
        raise TypeError(f"{cls.__qualname__} lacks {', '.join(missing)}, without which the zoo cannot use it: add it.")
    for other_library in LIBRARIES.values():
        other = constructor_of(other_library, name)
        if other is not None and not _same(other, constructor):
            raise ValueError(
                f"{name} is the name of {_described(other)} already, and cannot be that of "
                f'{_described(constructor)}, too: give it another one, zoo.register(..., name="...").'
            )
    _own[name] = constructor
    return constructor


def constructor_of(library: types.ModuleType, name: str) -> Callable | None:
    """The constructor of that name in `audax_eqx.frontends`, `.networks` or `.models`, or a registered one of its kind.

    None if there is no such constructor. Nothing else of the library is imported.
    """
    constructor = _own.get(name)
    if constructor is None and name in dir(library):
        constructor = getattr(library, name)
    return constructor if _constructs(constructor, library) else None


def constructors(library: types.ModuleType) -> list[str]:
    """The names that `constructor_of` knows."""
    return sorted(name for name in {*dir(library), *_own} if constructor_of(library, name) is not None)


def _constructs(constructor: Any, library: types.ModuleType) -> bool:
    cls = _class_of(constructor)
    return isinstance(cls, type) and issubclass(cls, eqx.Module) and _library(cls) is library


def _class_of(constructor: Any) -> Any:
    """The class whose instances a constructor makes."""
    return constructor.func if isinstance(constructor, functools.partial) else constructor


def _library(cls: Any) -> types.ModuleType:
    if not (isinstance(cls, type) and issubclass(cls, eqx.Module)):
        raise TypeError(
            "zoo.register takes a class that is an AbstractFrontend, an AbstractNetwork or an eqx.Module with a "
            f"frontend and a network, or a functools.partial of one, got {cls!r}."
        )
    return next(library for abstract, library in LIBRARIES.items() if issubclass(cls, abstract))


def _missing(cls: type, library: types.ModuleType) -> list[str]:
    """The names of the parts that a class of its kind needs and lacks."""
    missing = {*getattr(cls, "__abstractmethods__", ()), *getattr(cls, "__abstractvars__", ())}
    if library is models:
        parts = {name for each in cls.__mro__ for name in (*vars(each), *inspect.get_annotations(each))}
        missing |= {"frontend", "network", "listen", "embed", "__call__"} - parts
    return sorted(missing)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, functools.partial) and isinstance(other, functools.partial):
        return (one.func, one.args, one.keywords) == (other.func, other.args, other.keywords)
    is_interactive = not hasattr(sys.modules["__main__"], "__file__") and _class_of(other).__module__ == "__main__"
    return one is other or (is_interactive and _described(one) == _described(other))  # a cell that is run again


def _described(constructor: Any) -> str:
    cls = _class_of(constructor)
    return f"{cls.__module__}.{cls.__qualname__}"
