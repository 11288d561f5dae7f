"""The summary of what `prepare` wrote, in `dataset.json` and on the terminal."""

import collections
import json
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from zoo.tools import atomic

from .events import labels_heard
from .text import amount, printable

VERSION = 2  # 1 had no sounds in 24 bits
TIMED = 3  # a dataset whose examples are parts of recordings


def finish(
    out: pathlib.Path, names: Sequence[str], indices: Sequence[dict[str, Any]], sample_rate: int, strict: bool
) -> dict[str, Any]:
    """Writes the summary of the shards to the terminal and to `dataset.json`, and returns it."""
    faults = [fault for index in indices for fault in index["unreadable"]]
    examples = [example for index in indices for example in index["examples"]]
    files = {
        (number, example["offset"]): example for number, index in enumerate(indices) for example in index["examples"]
    }
    reasons = "".join(f"\n  {printable(fault['id'])}: {printable(fault['reason'])}" for fault in faults)
    if not examples or (strict and faults):
        total = amount(len(examples) + len(faults), "file")
        raise ValueError(f"{len(faults)} of {total} cannot be read:{reasons}")
    counts = collections.Counter(label for example in examples for label in example["labels"])
    numeric = all(re.fullmatch(r"[0-9]+", label) for label in counts)
    labels = sorted(counts, key=lambda label: (int(label) if numeric else 0, label))
    dataset = {
        "version": TIMED if any("start" in example for example in examples) else VERSION,
        "sample_rate": sample_rate,
        "labels": labels,
        "counts": {label: counts[label] for label in labels},
        "without_labels": sum(not example["labels"] for example in examples),
        "multilabel": any(len(labels) > 1 for index in indices for labels in labels_heard(index["examples"])),
        "columns": list(examples[0]["columns"]),
        "examples": len(examples),
        "recordings": len(files),
        "seconds": sum(file["samples"] for file in files.values()) / sample_rate,
        "shards": [
            {"file": f"{name}.tfrecord", "examples": len(index["examples"]), "sha256": index["sha256"]}
            for name, index in zip(names, indices, strict=True)
        ],
        "unreadable": faults,
        "clipped": {name: sum(index["clipped"][name] for index in indices) for name in ("files", "samples")},
        "rounded_to_16_bits": sum(index["rounded_to_16_bits"] for index in indices),
        "kept_in_24_bits": sum("scale" in file for file in files.values()),
        "beyond_full_scale": sum(index["beyond_full_scale"] for index in indices),
        "cut_at_the_end": sum(index.get("cut", 0) for index in indices),
    }
    write_json(out / "dataset.json", dataset, 1)
    print("\n".join(_summary(out, dataset)))
    if faults:
        verb = "cannot be read and is" if len(faults) == 1 else "cannot be read and are"
        print(f"{amount(len(faults), 'file')} {verb} left out:{reasons}", file=sys.stderr)
    return dataset


def _summary(out: pathlib.Path, dataset: dict[str, Any]) -> Iterator[str]:
    """The lines of the summary: first the contents of the dataset, then each change that was made to the files."""
    timed = dataset["version"] == TIMED
    parts = [amount(dataset["examples"], "example") + f" of {amount(dataset['recordings'], 'recording')}" * timed]
    parts.append(f"{dataset['seconds'] / 3600:.2f} hours")
    parts += [amount(len(dataset[name]), name[:-1]) for name in ("labels", "shards")]
    yield f"{out}: {', '.join(parts)}"
    if dataset["labels"] and dataset["without_labels"]:
        yield f"Without a label: {amount(dataset['without_labels'], 'example' if timed else 'file')}."
    if dataset["cut_at_the_end"]:
        yield f"Ending with their recording, which is shorter: {amount(dataset['cut_at_the_end'], 'example')}."
    for separator in ",|":
        if sum(separator in label for label in dataset["labels"]) > len(dataset["labels"]) / 2:
            yield f"Most labels hold {separator!r}: give --label-delimiter {separator!r} if it separates labels."
    if dataset["clipped"]["files"]:
        samples, files = (amount(dataset["clipped"][f"{noun}s"], noun) for noun in ("sample", "file"))
        yield f"Beyond full scale and cut off there: {samples} of {files}."
    if dataset["beyond_full_scale"]:
        yield f"Far beyond full scale, and kept so: {amount(dataset['beyond_full_scale'], 'file')}."
    if dataset["kept_in_24_bits"]:
        yield f"Kept in 24 bits, as 16 would lose too much: {amount(dataset['kept_in_24_bits'], 'file')}."
    if dataset["rounded_to_16_bits"]:
        yield f"Rounded to 16 bits: {amount(dataset['rounded_to_16_bits'], 'file')}."


def write_json(path: pathlib.Path, value: Any, indent: int | None) -> None:
    """Writes the value as JSON. A byte that is not UTF-8, which Python holds as a lone surrogate, is escaped."""
    with atomic(path) as temporary:
        text = json.dumps(value, ensure_ascii=False, indent=indent) + "\n"
        temporary.write_text(text, "utf-8", "backslashreplace")
