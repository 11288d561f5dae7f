"""The families of weights, one module each. Whatever module lies in this folder is found, and nothing else names it.

A module has what it needs of the following:

- `ENTRIES`: the models that load by a name.
- `RULES`: rename tables by the name that `Checkpoint.table` gives, each a tuple of `Rule`s.
- `NAMES`: for a table whose keys are not the file's own, a function of the file's shapes that gives for each of the
  table's keys the file's, as `Recognised.names`.
- `describes(config)`: whether a `config.json` is of this family; then
  `describe(name, config, read) -> Entry` is what the repo "owner/name" or the folder "name" holds, `read(file)` gives
  the parsed content of another file, the text of one that is not JSON, and `READS` says in words which models these
  are.
- `layout(entry, arrays) -> Layout | None`: a model of ours as transformers has it; the entry has all its options.
  None for a model of another family.
- `WITHOUT_CONFIG`: files of a folder without a `config.json`, and for each what that would say.
- `recognise(source) -> Recognised | None`: the entry and the rules for a bare file of weights, from the keys and shapes
  of its arrays; None for a file that is not of this family. A KeyError is told as an array that is missing.
- `ACCEPTANCE`: by an entry's name, what its authors published of its outputs.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from .._entry import Acceptance, Entry
from .._files import line
from .._foreign import Recognised, Shapes, Source
from .._rules import Rule


def modules() -> list[ModuleType]:
    """Every family, sorted by name. Imported when asked for: most of the time nobody does."""
    names = sorted(each.name for each in pkgutil.iter_modules(__path__) if not each.name.startswith("_"))
    return [importlib.import_module(f"{__name__}.{name}") for name in names]


def having(part: str) -> list[ModuleType]:
    """The families that have this part."""
    return [module for module in modules() if hasattr(module, part)]


def entries() -> dict[str, Entry]:
    """All published models, by name."""
    return {entry.name: entry for module in having("ENTRIES") for entry in module.ENTRIES}


def rules(table: str) -> Sequence[Rule]:
    """The rename table of that name."""
    return next(module.RULES[table] for module in having("RULES") if table in module.RULES)


def names(table: str, shapes: Shapes) -> Mapping[str, str] | None:
    """The keys of a file by those of the table; None where they are the same."""
    function = next((module.NAMES[table] for module in having("NAMES") if table in module.NAMES), None)
    return None if function is None else function(shapes)


def acceptance(name: str) -> Acceptance | None:
    """What the authors of a published model say that it makes of a recording."""
    return next((module.ACCEPTANCE[name] for module in having("ACCEPTANCE") if name in module.ACCEPTANCE), None)


def foreign(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is of another library: of a family, or of a kind that the zoo does not read."""
    return "model_type" in config or "architecture" in config or any(each.describes(config) for each in describing())


def describing() -> list[ModuleType]:
    """The families that read the `config.json` of others."""
    return having("describes")


def describe(name: str, config: Mapping[str, Any], read: Callable[[str], Any]) -> Entry:
    """The entry of the repo "owner/name" or the folder "name" with that `config.json`; `read` gives its other files.

    Raises ValueError for a kind of model that the zoo cannot read, and for files that make no sense.
    """
    for family in describing():
        if not family.describes(config):
            continue
        try:
            return family.describe(name, config, read)
        except (TypeError, AttributeError, OverflowError):
            given = str(dict(config))[:1000]
            raise ValueError(
                f"{name} has a field of the wrong type in its config.json or preprocessor_config.json: {given}."
            ) from None
        except ValueError as error:
            sentence = line(str(error), 1000)
            raise ValueError(sentence if sentence.startswith(name) else f"{name}: {sentence.rstrip('.')}.") from None
    kind = line(repr(config.get("architecture", config.get("model_type"))))
    reads = ", ".join(family.READS for family in describing())
    raise ValueError(f"{name} holds a model of the kind {kind}: the zoo reads {reads}, and its own.")


def recognise(source: Source) -> Recognised | None:
    """What the first family that knows the file's arrays makes of them; None where no family does.

    Raises ValueError for a file that lacks what its family always has.
    """
    for family in having("recognise"):
        try:
            recognised = family.recognise(source)
        except KeyError as missing:
            kind = family.__name__.rpartition(".")[2]
            raise ValueError(f"{source.path} is not a whole {kind} checkpoint: it has no {missing}.") from None
        except IndexError:
            kind = family.__name__.rpartition(".")[2]
            raise ValueError(f"{source.path} is no {kind} checkpoint: one of its arrays has too few axes.") from None
        if recognised is not None:
            return recognised
    return None
