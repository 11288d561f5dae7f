"""The checks of shapes and types: every function and dataclass of a checked module is held against its annotations.

jaxtyping and beartype check; whose import hook is not used, for three reasons. It makes each function's checks while
the module is imported, which takes longer than all the rest of the import: here they are made when the function is
first called. It looks for the bytecode of whatever a checked module imports, jax say, under a name of its own. And it
is for one thread, while names that are imported when they are asked for may be asked for by several.
"""

import ast
import dataclasses
import functools
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ._lazy import PARSING

BYTECODE = "checked1"  # in the names of files of bytecode; a change of what is compiled here needs another one
NAME = "__checked__"  # of `checked` in a checked module


def checked(made: Any) -> Any:
    """The function with its arguments and result checked; a dataclass, with the arguments of its `__init__`.

    `JAXTYPING_DISABLE=1` in the environment turns the checks off.
    """
    if isinstance(made, type):
        if dataclasses.is_dataclass(made) and not hasattr(made.__init__, NAME):
            made.__init__ = checked(made.__init__)
        return made
    checks = None

    @functools.wraps(made)
    def check_call(*arguments: Any, **keywords: Any) -> Any:
        nonlocal checks
        if checks is None:
            checks = _with_checks(made)
        return checks(*arguments, **keywords)

    setattr(check_call, NAME, True)
    return check_call


def _with_checks(function: Callable) -> Callable:
    """The function with its checks, for which a whole number is a float too.

    jaxtyping, which needs JAX, is for functions that have shapes in their annotations.
    """
    from jaxtyping import TypeCheckError, config, jaxtyped

    if config.jaxtyping_disable:
        return function
    from beartype import BeartypeConf, beartype

    check = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeCheckError))
    if any("jaxtyping" in repr(annotation) for annotation in function.__annotations__.values()):
        return jaxtyped(typechecker=check)(function)
    return check(function)


def check_modules(pattern: str) -> None:
    """Has all modules checked whose whole name matches the regular expression, and that are imported from now on."""
    if not any(isinstance(each, _Finder) and each.pattern.pattern == pattern for each in sys.meta_path):
        sys.meta_path.insert(0, _Finder(re.compile(pattern)))


class _Finder(importlib.machinery.PathFinder):
    """Finds the modules as Python does, and has them loaded with checks."""

    def __init__(self, pattern: re.Pattern):
        self.pattern = pattern

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: Any = None) -> Any:  # type: ignore[override]
        if not self.pattern.fullmatch(fullname):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles a module with `checked` as the decorator next to each function, and around each class."""

    def exec_module(self, module: Any) -> None:
        setattr(module, NAME, checked)
        super().exec_module(module)

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:  # type: ignore[override]
        with PARSING:
            tree = _Decorate().visit(ast.parse(data, path))
            return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True, optimize=_optimize)

    def get_data(self, path: str) -> bytes:
        return super().get_data(self._own(path))

    def set_data(self, path: str, data: Any, **options: Any) -> None:  # type: ignore[override]
        super().set_data(self._own(path), data, **options)

    def _own(self, path: str) -> str:
        """The path, or in place of Python's own file of bytecode the one with checks."""
        if not path.endswith(tuple(importlib.machinery.BYTECODE_SUFFIXES)):
            return path
        return importlib.util.cache_from_source(self.path, optimization=f"{BYTECODE}o{sys.flags.optimize}")


class _Decorate(ast.NodeTransformer):
    """Decorates all functions and classes, but for those under `typing.no_type_check`."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        return self._decorated(node, len(node.decorator_list))  # before `jax.custom_vjp`, say, takes the function

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        return self._decorated(node, 0)  # when it is a dataclass

    def _decorated(self, node: Any, place: int) -> Any:
        if any("no_type_check" in ast.unparse(each) for each in node.decorator_list):
            return node
        self.generic_visit(node)
        first = node.decorator_list[0] if node.decorator_list else node
        decorator = ast.Name(NAME, ast.Load(), lineno=first.lineno, col_offset=first.col_offset)
        node.decorator_list.insert(place, decorator)
        return node
