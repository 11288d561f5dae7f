"""Reads the files that describe a model of SpeechBrain, without running the code that they name.

`hyperparams.yaml` is YAML in which `!new:` and `!name:` precede a class, and `!ref` precedes the name of another
setting. Each line of `label_encoder.txt` has a label and its number.
"""

import re
from typing import Any

from ._files import line


def hyperparams(name: str, text: str) -> dict[str, Any]:
    """The settings by name. A `!new:` setting becomes a dictionary of its options, with its class under "!new".

    Raises ValueError for a text that is not YAML or has no settings.
    """
    import yaml  # huggingface_hub needs it too; it takes long to import

    class Loader(yaml.SafeLoader):
        """Loads plain values where SpeechBrain would build objects or run code."""

    def value(loader: Any, suffix: str, node: Any) -> Any:
        kind, _, target = suffix.partition(":")
        if kind in ("new", "apply") and isinstance(node, yaml.MappingNode):
            return {"!new": target} | loader.construct_mapping(node, deep=True)
        if kind in ("new", "apply", "name"):
            return {"!new": target} if kind != "name" else target
        return node.value

    Loader.add_multi_constructor("!", value)
    try:
        settings = yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ValueError(f"{name} has a hyperparams.yaml that is not YAML ({line(str(error))}).") from None
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise ValueError(f"{name} has a hyperparams.yaml without settings by name.")
    return {key: _resolved(setting, settings) for key, setting in settings.items()}


def _resolved(setting: Any, settings: dict[str, Any]) -> Any:
    """The setting with the values of other settings in place of their names, also in its options and lists."""
    if isinstance(setting, dict):
        return {key: _resolved(each, settings) if not isinstance(each, dict) else each for key, each in setting.items()}
    if isinstance(setting, list):
        return [_referred(item, settings) for item in setting]
    return _referred(setting, settings)


def _referred(value: Any, settings: dict[str, Any]) -> Any:
    match = re.fullmatch(r"<(\w+)>", value) if isinstance(value, str) else None
    return settings.get(match[1], value) if match else value


def encoded_labels(name: str, text: str) -> tuple[str, ...]:
    """The labels of a `label_encoder.txt`, by number. Raises ValueError for another file."""
    labels: dict[int, str] = {}
    for row in text.partition("================")[0].splitlines():
        match = re.fullmatch(r"""(?:'(.*)'|"(.*)") => (\d{1,7})""", row.strip())
        if match is None:
            raise ValueError(f"{name} has the line {line(repr(row))} in its label_encoder.txt, not 'label' => number.")
        labels[int(match[3])] = match[1] if match[2] is None else match[2]
    if sorted(labels) != list(range(len(labels))):
        numbers = line(str(sorted(labels)))
        raise ValueError(f"{name} has other numbers than 0, 1, ... in its label_encoder.txt: {numbers}.")
    return tuple(labels[index] for index in range(len(labels)))
