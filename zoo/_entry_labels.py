"""The labels of published models, from repos on the Hub."""

import dataclasses

from ._entry import Entry
from ._files import CONFIG
from ._labels import AUDIOSET, CODE, label_dict, read_labels, read_names
from ._models import entry_from_config
from ._source import Source
from ._warn import warn_user
from ._weights import Arrays


def with_labels(entry: Entry, source: Source) -> Entry:
    """A published entry, completed from its repo: with its labels, or with all that its own `config.json` describes."""
    checkpoint = entry.checkpoint
    if checkpoint is None or checkpoint.label_file is None:
        return entry
    if checkpoint.label_file == CONFIG:
        description = entry_from_config(source)
        own = ("frontend", "network", "model", "classes", "labels", "window")
        return dataclasses.replace(entry, **{field: getattr(description, field) for field in own})
    if checkpoint.label_file == checkpoint.file:
        settings = Arrays(source.path(checkpoint.label_file)).settings
        labels = label_dict(settings, f"{checkpoint.file} of {checkpoint.repo}", entry.classes)
        return dataclasses.replace(entry, labels=with_names(labels, entry.name))
    if checkpoint.label_repo is None:
        return dataclasses.replace(entry, labels=read_labels(source.path(checkpoint.label_file)))
    from ._repo import download_once  # the Hub's client takes long to import

    # A revision concerns only the repo of the weights
    path = download_once(checkpoint.label_repo, checkpoint.label_file)
    return dataclasses.replace(entry, labels=read_labels(path))


def with_names(labels: tuple[str, ...], name: str) -> tuple[str, ...]:
    """The labels, with AudioSet's names in place of its codes. If the names cannot be fetched, the codes stay, with a
    warning."""
    if not any(CODE.fullmatch(label) for label in labels):
        return labels
    from ._repo import download_once  # as above

    try:
        names = read_names(download_once(AUDIOSET["label_repo"], AUDIOSET["label_file"]))
    except OSError as error:
        warn_user(
            f"{name} has AudioSet's codes as labels, such as {labels[0]}, because their names cannot be fetched "
            f"({str(error).rstrip('.')}): load it again when they can be.",
        )
        return labels
    return tuple(names.get(label, label) for label in labels)
