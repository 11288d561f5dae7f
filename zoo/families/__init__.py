"""The families of weights, one module each. Every module in this folder is a family; no list names the modules.

A module defines those of the following names that its family needs:

- `ENTRIES`: the models that load by a name.
- `RULES`: rename tables, tuples of `Rule`s, by the name in `Checkpoint.table`.
- `NAMES`: functions, by table, for tables whose keys differ from the file's keys. The function takes the file's shapes
  and returns a mapping from the table's keys to the file's keys, as in `Recognition.names`.
- `describes(config)`: whether a `config.json` is of this family. `describe(name, config, read) -> Entry` is then the
  model in the repo "owner/name" or the folder "name"; `read(file)` returns the parsed content of another file if it is
  JSON, and otherwise its text. `READS` says in words which models these are.
- `layout(entry, arrays) -> Layout | None`: the model of an entry, which has all its options, in the form of
  transformers. None for a model of another family.
- `WITHOUT_CONFIG`: files in folders that have no `config.json`, each with the content that a `config.json` would have.
- `recognise(file) -> Recognition | None`: the entry and the rules for a bare file of weights, from the keys and shapes
  of its arrays; None for a file of another family. A KeyError is reported to the user as a missing array.
- `ACCEPTANCE`: published outputs of models, by the entry's name.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from .._entry import Acceptance, Entry
from .._files import line
from .._foreign import Recognition, Shapes, WeightFile
from .._rules import Rule


def modules() -> list[ModuleType]:
    """Every family, sorted by name. They are imported by this call only, because most programs need none of them."""
    names = sorted(each.name for each in pkgutil.iter_modules(__path__) if not each.name.startswith("_"))
    return [importlib.import_module(f"{__name__}.{name}") for name in names]


def having(part: str) -> list[ModuleType]:
    """The families that define the name `part`."""
    return [module for module in modules() if hasattr(module, part)]


def entries() -> dict[str, Entry]:
    """All published models, by name."""
    return {entry.name: entry for module in having("ENTRIES") for entry in module.ENTRIES}


def rules(table: str) -> Sequence[Rule]:
    """The rename table of that name."""
    return next(module.RULES[table] for module in having("RULES") if table in module.RULES)


def names(table: str, shapes: Shapes) -> Mapping[str, str] | None:
    """A mapping from the table's keys to the file's keys; None if they are the same."""
    function = next((module.NAMES[table] for module in having("NAMES") if table in module.NAMES), None)
    return None if function is None else function(shapes)


def acceptance(name: str) -> Acceptance | None:
    """The output for a recording that a model's authors published; None if there is none."""
    return next((module.ACCEPTANCE[name] for module in having("ACCEPTANCE") if name in module.ACCEPTANCE), None)


def foreign(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is of another library: of a family, or of a model that the zoo does not read."""
    return "model_type" in config or "architecture" in config or any(each.describes(config) for each in describing())


def describing() -> list[ModuleType]:
    """The families that read the `config.json` of other libraries."""
    return having("describes")


def describe(name: str, config: Mapping[str, Any], read: Callable[[str], Any]) -> Entry:
    """The entry of the repo "owner/name" or the folder "name" with this `config.json`. `read` returns its other files.

    Raises ValueError for a kind of model that the zoo cannot read, and for invalid files.
    """
    for family in describing():
        if not family.describes(config):
            continue
        try:
            return family.describe(name, config, read)
        except (TypeError, AttributeError, OverflowError):
            fields = str(dict(config))[:1000]
            raise ValueError(
                f"{name} has a field of the wrong type in its config.json or preprocessor_config.json: {fields}."
            ) from None
        except ValueError as error:
            sentence = line(str(error), 1000)
            raise ValueError(sentence if sentence.startswith(name) else f"{name}: {sentence.rstrip('.')}.") from None
    kind = line(repr(config.get("architecture", config.get("model_type"))))
    reads = ", ".join(family.READS for family in describing())
    raise ValueError(f"{name} holds a model of the kind {kind}: the zoo reads {reads}, and its own.")


def recognise(file: WeightFile) -> Recognition | None:
    """The result of the first family that recognises the file's arrays; None if no family does.

    Raises ValueError for a file that lacks an array which its family always has.
    """
    for family in having("recognise"):
        try:
            recognition = family.recognise(file)
        except KeyError as missing:
            kind = family.__name__.rpartition(".")[2]
            raise ValueError(f"{file.path} is not a whole {kind} checkpoint: it has no {missing}.") from None
        except IndexError:
            kind = family.__name__.rpartition(".")[2]
            raise ValueError(f"{file.path} is no {kind} checkpoint: one of its arrays has too few axes.") from None
        if recognition is not None:
            return recognition
    return None
