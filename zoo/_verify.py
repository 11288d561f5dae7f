"""Checks whether a model still matches its entry, by its repo on the Hub, without a download of its weights.

The shapes of the arrays are read from the first 100 kB of their file. All other downloads have a few kilobytes.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from . import families
from ._audio import read
from ._card import hub_license
from ._converted import converted
from ._entry import Acceptance, Entry
from ._files import CONFIG, GOLDEN, INSTEAD, WEIGHTS
from ._golden import BOUND, computed
from ._golden import verify as verify_golden
from ._hub import Metadata, download, metadata, reach, safetensors_header
from ._limits import CONTROL, check_size
from ._load import entry_of, fit, load, weight_files
from ._models import info
from ._pretrained import Pretrained
from ._source import Source, packaged, source_of
from ._weights import check_types

LONGEST = 400  # characters of a result


@dataclasses.dataclass
class Report:
    """The parts of a model that passed, remarks on it, and a sentence about the first fault, if there is one."""

    name: str
    repo: str
    checks: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    fault: str | None = None

    @property
    def result(self) -> str:
        """One line."""
        return self.fault or ", ".join(["ok", *self.notes])


def verify(name: str, *, full: bool = False) -> Report:
    """Checks one model by any name that `load` takes, and reports its first fault of any kind.

    - On the Hub: the repo exists, the labels can be read and are as many as the classes, the arrays of the weights fit
      the model, and the licence on the card is the entry's. With `full` the model is also downloaded and run, and its
      outputs are compared with the golden output and with those that its authors published, if there are any.
    - In the package or in a folder: the model loads, and its output matches the golden one.

    Raises ValueError or FileNotFoundError for a name that is not that of a model.
    """
    source = source_of(name)
    place = "in the package" if name in packaged() else "a folder"
    report = Report(name, source.name if source.folder is None else place)
    try:
        if source.folder is not None:
            _check_folder(report, source)
        else:
            _check_repo(report, source, full)
    except Exception as error:  # a fault of one model does not stop the others
        sentence = " ".join(CONTROL.sub(" ", str(error)).split()) or type(error).__name__
        report.fault = sentence if len(sentence) <= LONGEST else f"{sentence[:LONGEST]} ..."
    return report


def _check_folder(report: Report, source: Source) -> None:
    clip = load(report.name)
    report.checks.append("arrays")
    if report.name in packaged() or (source.folder and (source.folder / GOLDEN).exists()):
        verify_golden(clip, source.path(GOLDEN))
        report.checks.append("golden output")
    else:
        report.notes.append(f"it has no {GOLDEN}")


def _check_repo(report: Report, source: Source, full: bool) -> None:
    newest = metadata(report.repo)
    report.checks.append("repo")
    entry = entry_of(report.name, source, weights=full)
    if (checkpoint := entry.checkpoint) and checkpoint.label_file == CONFIG:
        _check_sizes(report.repo, entry, info(report.name))
    elif checkpoint and checkpoint.label_repo and checkpoint.label_file:
        reach(checkpoint.label_repo, checkpoint.label_file)  # the labels may have come from the cache
    if entry.labels:
        report.checks.append("labels")
    files, rules = weight_files(entry)
    files, commit = _weights(report.repo, files, newest)
    if isinstance(files, str) and files.endswith(".safetensors"):
        shapes, dtypes = safetensors_header(report.repo, files, commit)
        where = f"{files} of {report.repo}"
        check_types(dtypes, where)
        check_size(shapes, where)
        fit(entry, shapes, where, rules)
        report.checks.append("arrays")
        if commit != newest.commit:
            report.notes.append("its weights are in a pull request of the Hub's bot")
    else:
        for file in (files,) if isinstance(files, str) else files:
            reach(report.repo, file)
        report.notes.append("its weights are not safetensors, so only --full checks the arrays")
    _check_license(report, entry, newest.licenses)
    if full:
        clip = load(report.name)
        _check_outputs(report, clip, source.path(GOLDEN) if GOLDEN in newest.files else None)


def _weights(repo: str, file: str | tuple[str, ...], newest: Metadata) -> tuple[str | tuple[str, ...], str | None]:
    """The file with the weights that `load` would read, and its commit.

    If main lacks `file`, this is the one of the bot's pull request, or else a file that transformers writes instead.
    """
    if file != WEIGHTS or file in newest.files or newest.commit is None:
        return file, newest.commit
    addition = converted(repo, newest.commit)
    if addition is not None and file in metadata(repo, addition).files:
        return file, addition
    return next((name for name in INSTEAD if name in newest.files), file), newest.commit


def _check_sizes(repo: str, description: Entry, ours: Entry) -> None:
    """Raises ValueError if a repo describes a model with other classes or another rate than the entry."""
    repo_sizes, entry_sizes = ((entry.classes, entry.sample_rate) for entry in (description, ours))
    if repo_sizes != entry_sizes:
        raise ValueError(
            f"{CONFIG} of {repo} describes a model with {repo_sizes[0]} classes at {repo_sizes[1]} Hz, and the zoo one "
            f"with {entry_sizes[0]} at {entry_sizes[1]} Hz: correct the entry."
        )


def _check_license(report: Report, entry: Entry, card_licenses: Sequence[str]) -> None:
    entry_license = (entry.checkpoint and entry.checkpoint.license) or entry.license
    if not card_licenses:
        report.notes.append("its card states no licence")
    elif entry_license is None:
        report.notes.append(f"its card states the licence {', '.join(card_licenses)}")
    elif hub_license(entry_license) not in [name.lower() for name in card_licenses]:
        raise ValueError(
            f"The card of {report.repo} states the licence {', '.join(card_licenses)}, and the zoo {entry_license}: "
            "read it there, and correct the entry, or leave the model out."
        )
    else:
        report.checks.append("licence")


def _check_outputs(report: Report, clip: Pretrained, golden: pathlib.Path | None) -> None:
    """Runs a model and compares its outputs with the known ones."""
    if golden is not None:
        verify_golden(clip, golden)
        report.checks.append("golden output")
    if (acceptance := families.acceptance(report.name)) is not None:
        _accept(clip, acceptance)
        report.checks.append("authors' output")
    if golden is None and acceptance is None:
        report.notes.append("no output of it is known")


def _accept(clip: Pretrained, acceptance: Acceptance) -> None:
    """Raises ValueError if the model's outputs differ from those that its authors published."""
    logits = computed(clip, read(download(acceptance.repo, acceptance.file), clip.sample_rate))
    reference = np.asarray(acceptance.logits, np.float32)
    if not np.allclose(logits[: len(reference)], reference, rtol=0, atol=BOUND * np.abs(reference).max(initial=0)):
        raise ValueError(
            f"{clip.entry.name} gives the logits {_listed(logits[: len(reference)])} for {acceptance.file} of "
            f"{acceptance.repo}, and its authors published {_listed(reference)}."
        )
    classes = tuple(map(int, np.flatnonzero(1 / (1 + np.exp(-logits)) > acceptance.threshold)))
    if acceptance.classes and classes != acceptance.classes:
        raise ValueError(
            f"{clip.entry.name} finds the classes {_listed(classes)} in {acceptance.file} of {acceptance.repo}, and "
            f"its authors published {_listed(acceptance.classes)}."
        )


def _listed(numbers: Iterable[Any]) -> str:
    return ", ".join(f"{number:.6g}" for number in numbers)
