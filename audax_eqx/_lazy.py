"""Packages that import a public name when it is first used (PEP 562): a program pays only for what it uses."""

import ast
import importlib
import pkgutil
import sys
import threading
import types
from typing import Any

PARSING = threading.Lock()  # Python 3.11 raises a SystemError if two threads make syntax trees at the same time


class LazyPackage(types.ModuleType):
    """A package whose names lie in other modules; it imports each name when the name is first used.

    The names are those that the package's own source imports under `if TYPE_CHECKING:`, where type checkers read them
    too. The modules of the package are attributes as well, whether they have been imported or not.
    """

    def __getattr__(self, name: str) -> Any:
        imports, modules = self.__dict__["_imports"], self.__dict__["_modules"]
        if name in imports:
            module, attribute = imports[name]
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
        """Sets an attribute, unless a module would replace a name: Python sets each module that it imports."""
        _, attribute = self.__dict__["_imports"].get(name, (None, None))
        if attribute is None or not isinstance(value, types.ModuleType):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *self.__dict__["_imports"]})


def make_lazy(package: str) -> None:
    """Makes a package lazy. Its `__init__.py` calls this, and imports the names under `if TYPE_CHECKING:`."""
    module = sys.modules[package]
    source = module.__spec__ and module.__spec__.loader.get_source(package)  # type: ignore[union-attr]
    module._imports = _read_imports(source)  # type: ignore[attr-defined]
    module._modules = {info.name for info in pkgutil.iter_modules(module.__path__)}  # type: ignore[attr-defined]
    module.__all__ = sorted(module._imports)  # type: ignore[attr-defined]
    module.__class__ = LazyPackage


def _read_imports(source: str) -> dict[str, tuple[str, str | None]]:
    """Maps each name to its module, as `importlib` takes it, and its name in that module; None for a module itself."""
    with PARSING:
        tree = ast.parse(source)
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports: dict[str, tuple[str, str | None]] = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom), "a lazy package imports its names by from ... import"
        for alias in node.names:
            module = "." * node.level + (node.module or alias.name)
            imports[alias.asname or alias.name] = (module, alias.name if node.module else None)
    return imports
