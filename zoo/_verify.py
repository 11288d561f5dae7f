"""Whether a model is still what the zoo says of it: held against its repo on the Hub, without fetching its weights.

The shapes of the arrays come from the first 100 kB of their file; whatever else is fetched has some kilobytes.
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
    """What of a model is as it should be, what else was noticed, and the sentence about the first thing that is not."""

    name: str
    repo: str
    checked: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    fault: str | None = None

    @property
    def result(self) -> str:
        """One line."""
        return self.fault or ", ".join(["ok", *self.notes])


def verify(name: str, *, full: bool = False) -> Report:
    """Checks one model by any name that `load` takes, and reports its first fault, whatever it is.

    - On the Hub: its repo is there, its labels can be had and are as many as its classes, the arrays of its weights are
      those of the model, and the licence on its card is the entry's. With `full` it is also fetched and run, for its
      golden output and for what its authors published, where there are any.
    - In the package or in a folder: it loads, and gives its golden output.

    Raises ValueError and FileNotFoundError for what is no name of a model.
    """
    source = source_of(name)
    place = "in the package" if name in packaged() else "a folder"
    report = Report(name, source.name if source.folder is None else place)
    try:
        if source.folder is not None:
            _check_folder(report, source)
        else:
            _check_repo(report, source, full)
    except Exception as error:  # one model does not cost the others
        sentence = " ".join(CONTROL.sub(" ", str(error)).split()) or type(error).__name__
        report.fault = sentence if len(sentence) <= LONGEST else f"{sentence[:LONGEST]} ..."
    return report


def _check_folder(report: Report, source: Source) -> None:
    clip = load(report.name)
    report.checked.append("arrays")
    if report.name in packaged() or (source.folder and (source.folder / GOLDEN).exists()):
        verify_golden(clip, source.path(GOLDEN))
        report.checked.append("golden output")
    else:
        report.notes.append(f"it has no {GOLDEN}")


def _check_repo(report: Report, source: Source, full: bool) -> None:
    newest = metadata(report.repo)
    report.checked.append("repo")
    entry = entry_of(report.name, source, weights=full)
    if (checkpoint := entry.checkpoint) and checkpoint.label_file == CONFIG:
        _check_sizes(report.repo, entry, info(report.name))
    elif checkpoint and checkpoint.label_repo and checkpoint.label_file:
        reach(checkpoint.label_repo, checkpoint.label_file)  # for it may have come from the cache
    if entry.labels:
        report.checked.append("labels")
    files, rules = weight_files(entry)
    files, commit = _weights(report.repo, files, newest)
    if isinstance(files, str) and files.endswith(".safetensors"):
        shapes, dtypes = safetensors_header(report.repo, files, commit)
        where = f"{files} of {report.repo}"
        check_types(dtypes, where)
        check_size(shapes, where)
        fit(entry, shapes, where, rules)
        report.checked.append("arrays")
        if commit != newest.commit:
            report.notes.append("its weights are in a pull request of the Hub's bot")
    else:
        for file in (files,) if isinstance(files, str) else files:
            reach(report.repo, file)
        report.notes.append("its weights are no safetensors, of which --full alone sees the arrays")
    _check_license(report, entry, newest.licenses)
    if full:
        clip = load(report.name)
        _check_outputs(report, clip, source.path(GOLDEN) if GOLDEN in newest.files else None)


def _weights(repo: str, file: str | tuple[str, ...], newest: Metadata) -> tuple[str | tuple[str, ...], str | None]:
    """The file with the weights as a load finds it, and its commit.

    Where main lacks it, it is the one of the bot's pull request, or else what transformers writes instead.
    """
    if file != WEIGHTS or file in newest.files or newest.commit is None:
        return file, newest.commit
    addition = converted(repo, newest.commit)
    if addition is not None and file in metadata(repo, addition).files:
        return file, addition
    return next((each for each in INSTEAD if each in newest.files), file), newest.commit


def _check_sizes(repo: str, described: Entry, ours: Entry) -> None:
    """Raises ValueError when a repo describes another model than the entry does."""
    theirs, said = ((each.classes, each.sample_rate) for each in (described, ours))
    if theirs != said:
        raise ValueError(
            f"{CONFIG} of {repo} describes a model with {theirs[0]} classes at {theirs[1]} Hz, and the zoo one with "
            f"{said[0]} at {said[1]} Hz: correct the entry."
        )


def _check_license(report: Report, entry: Entry, stated: Sequence[str]) -> None:
    wanted = (entry.checkpoint and entry.checkpoint.license) or entry.license
    if not stated:
        report.notes.append("its card states no licence")
    elif wanted is None:
        report.notes.append(f"its card states the licence {', '.join(stated)}")
    elif hub_license(wanted) not in [each.lower() for each in stated]:
        raise ValueError(
            f"The card of {report.repo} states the licence {', '.join(stated)}, and the zoo {wanted}: read it there, "
            "and correct the entry, or leave the model out."
        )
    else:
        report.checked.append("licence")


def _check_outputs(report: Report, clip: Pretrained, golden: pathlib.Path | None) -> None:
    """Runs a model for what is known of its outputs."""
    if golden is not None:
        verify_golden(clip, golden)
        report.checked.append("golden output")
    if (published := families.acceptance(report.name)) is not None:
        _accept(clip, published)
        report.checked.append("authors' output")
    if golden is None and published is None:
        report.notes.append("no output of it is known")


def _accept(clip: Pretrained, published: Acceptance) -> None:
    """Raises ValueError when the model does not give what its authors published."""
    logits = computed(clip, read(download(published.repo, published.file), clip.sample_rate))
    wanted = np.asarray(published.logits, np.float32)
    if not np.allclose(logits[: len(wanted)], wanted, rtol=0, atol=BOUND * np.abs(wanted).max(initial=0)):
        raise ValueError(
            f"{clip.entry.name} gives the logits {_listed(logits[: len(wanted)])} for {published.file} of "
            f"{published.repo}, and its authors published {_listed(wanted)}."
        )
    heard = tuple(map(int, np.flatnonzero(1 / (1 + np.exp(-logits)) > published.threshold)))
    if published.classes and heard != published.classes:
        raise ValueError(
            f"{clip.entry.name} hears the classes {_listed(heard)} in {published.file} of {published.repo}, and its "
            f"authors published {_listed(published.classes)}."
        )


def _listed(numbers: Iterable[Any]) -> str:
    return ", ".join(f"{number:.6g}" for number in numbers)
