"""The checks of shapes and types: every function and dataclass of a checked module is checked against its annotations.

jaxtyping and beartype make the checks. We do not use jaxtyping's import hook, for three reasons. The hook makes the
checks of each function during the import, which takes longer than the rest of the import; this module makes them at the
first call of the function. The hook gives a name of its own to the bytecode of everything that a checked module
imports, jax for example. And the hook works in one thread only, while several threads may import a lazy name.
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

BYTECODE = "checked1"  # part of the bytecode files' names; change it whenever the compiled code changes
NAME = "__checked__"  # the name of `checked` in a checked module


def checked(definition: Any) -> Any:
    """The function with checks of its arguments and its result, or the dataclass with checks of its fields.

    `JAXTYPING_DISABLE=1` in the environment turns the checks off.
    """
    if isinstance(definition, type):
        if dataclasses.is_dataclass(definition) and not hasattr(definition.__init__, NAME):
            definition.__init__ = checked(definition.__init__)
        return definition
    checks = None

    @functools.wraps(definition)
    def check_call(*arguments: Any, **keywords: Any) -> Any:
        nonlocal checks
        if checks is None:
            checks = _add_checks(definition)
        return checks(*arguments, **keywords)

    setattr(check_call, NAME, True)
    return check_call


def _add_checks(function: Callable) -> Callable:
    """The function with its checks, which accept a whole number as a float.

    Only functions with shapes in their annotations use `jaxtyped`, because it needs JAX.
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
    """Checks all modules that are imported from now on and whose full name matches the regular expression."""
    if not any(isinstance(finder, _Finder) and finder.pattern.pattern == pattern for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder(re.compile(pattern)))


class _Finder(importlib.machinery.PathFinder):
    """Finds the modules as Python does, and loads them with checks."""

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
    """Compiles a module with `checked` as the innermost decorator of each function and the outermost of each class."""

    def exec_module(self, module: Any) -> None:
        setattr(module, NAME, checked)
        super().exec_module(module)

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:  # type: ignore[override]
        with PARSING:
            tree = _Decorate().visit(ast.parse(data, path))
            return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True, optimize=_optimize)

    def get_data(self, path: str) -> bytes:
        return super().get_data(self._bytecode_path(path))

    def set_data(self, path: str, data: Any, **options: Any) -> None:  # type: ignore[override]
        super().set_data(self._bytecode_path(path), data, **options)

    def _bytecode_path(self, path: str) -> str:
        """The path; the path of a file of bytecode becomes that of the file with checks."""
        if not path.endswith(tuple(importlib.machinery.BYTECODE_SUFFIXES)):
            return path
        return importlib.util.cache_from_source(self.path, optimization=f"{BYTECODE}o{sys.flags.optimize}")


class _Decorate(ast.NodeTransformer):
    """Decorates all functions and classes, except those under `typing.no_type_check`."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        return self._decorate(node, len(node.decorator_list))  # inside of `jax.custom_vjp`, for example

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        return self._decorate(node, 0)  # outside of `dataclass`

    def _decorate(self, node: Any, index: int) -> Any:
        if any("no_type_check" in ast.unparse(decorator) for decorator in node.decorator_list):
            return node
        self.generic_visit(node)
        first = node.decorator_list[0] if node.decorator_list else node
        decorator = ast.Name(NAME, ast.Load(), lineno=first.lineno, col_offset=first.col_offset)
        node.decorator_list.insert(index, decorator)
        return node
