"""Packages whose public names are imported when they are first asked for (PEP 562): programs pay for what they use."""

import ast
import importlib
import pkgutil
import sys
import threading
import types
from typing import Any

PARSING = threading.Lock()  # Python 3.11 raises a SystemError in threads that make syntax trees at the same time


class LazyPackage(types.ModuleType):
    """A package with names that lie in other modules; each is imported when it is first asked for.

    The names are those that the package's own text imports under `if TYPE_CHECKING:`, where type checkers read them
    too. Its modules are attributes, imported by then or not.
    """

    def __getattr__(self, name: str) -> Any:
        places, modules = self.__dict__["_places"], self.__dict__["_modules"]
        if name in places:
            module, attribute = places[name]
            value = importlib.import_module(module, self.__name__)
            if attribute is not None:
                value = getattr(value, attribute)
        elif name in modules:
            value = importlib.import_module(f".{name}", self.__name__)
        else:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        """Keeps a name from the module of the same name, which Python sets when it has imported it."""
        _, attribute = self.__dict__["_places"].get(name, (None, None))
        if attribute is None or not isinstance(value, types.ModuleType):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *self.__dict__["_places"]})


def make_lazy(package: str) -> None:
    """Gives a package, from its `__init__.py`, the names that this file imports under `if TYPE_CHECKING:`."""
    module = sys.modules[package]
    source = module.__spec__ and module.__spec__.loader.get_source(package)  # type: ignore[union-attr]
    module._places = _places(source)  # type: ignore[attr-defined]
    module._modules = {each.name for each in pkgutil.iter_modules(module.__path__)}  # type: ignore[attr-defined]
    module.__all__ = sorted(module._places)  # type: ignore[attr-defined]
    module.__class__ = LazyPackage


def _places(source: str) -> dict[str, tuple[str, str | None]]:
    """For each name the module that has it, as `importlib` takes it, and its name there; None for a module itself."""
    with PARSING:
        tree = ast.parse(source)
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    places: dict[str, tuple[str, str | None]] = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom), "a lazy package imports its names by from ... import"
        for alias in node.names:
            module = "." * node.level + (node.module or alias.name)
            places[alias.asname or alias.name] = (module, alias.name if node.module else None)
    return places
