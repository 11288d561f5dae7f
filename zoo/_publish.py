"""A model to the Hub."""

import os
import pathlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from typing import Literal

import equinox as eqx

from ._card import addressed, generated
from ._entry import Entry
from ._export import SUFFIXES, export
from ._files import CARD, FILES, TOKENIZER, existing
from ._load import load
from ._register import Model
from ._save import save
from ._source import REPO, source_of


def publish(
    repo: str,
    model: Model,
    state: eqx.nn.State,
    entry: Entry,
    *,
    private: bool = False,
    revision: str | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    layout: Literal["audax", "transformers"] = "audax",
    exports: Sequence[str] = (),
    dry_run: bool = False,
) -> str:
    """Saves the model and uploads its folder to the Hub repo "user/name" in one commit, whose URL it returns.

    The repo is created where it does not exist, and so is the branch `revision`, main unless given. A model that the
    repo has already makes no new commit: the Hub's client says so, and the URL is that of the last one. A card written
    by hand on the Hub stays. `layout` is that of `save`. With exports=("stablehlo", "onnx"), or one of these, the repo
    has `model.stablehlo` and `model.onnx` too, as `export` writes them of the saved weights. With `dry_run` nothing is
    sent, and the files and their sizes are returned in the URL's place. The token is HF_TOKEN's, or that of
    `hf auth login`.

    Raises ValueError as `save` and `export` do, for what is not "user/name", and for a public repo that was to be
    private; and OSError: PermissionError without a token that may write, ConnectionError when the Hub cannot be
    reached.
    """
    _check(repo)
    if isinstance(exports, str) or not {f".{each}" for each in exports} <= set(SUFFIXES):
        known = " and ".join(repr(suffix[1:]) for suffix in SUFFIXES)
        raise ValueError(f"exports is a list of {known}, got {exports!r}: give exports=('stablehlo',).")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        save(folder, model, state, entry, dtype=dtype, layout=layout)
        paths = _paths(folder)
        for each in exports:
            paths[f"model.{each}"] = folder / f"model.{each}"
            export(load(folder), paths[f"model.{each}"])
        return _send(repo, paths, entry.name, private, revision, dry_run)[0]


def republish(
    name: str | os.PathLike, repo: str, *, private: bool = False, revision: str | None = None, dry_run: bool = False
) -> str:
    """Uploads any model that `load` takes, and returns what to tell. A whole folder of `save`'s goes as it is."""
    _check(repo)
    folder = source_of(os.fspath(name)).folder
    whole = folder is not None and all((folder / file).exists() for file in FILES)
    clip = load(name, verify=whole)
    options = (clip.entry.name, private, revision, dry_run)
    if folder is not None and whole:
        url, new = _send(repo, _paths(folder), *options)
    else:
        with tempfile.TemporaryDirectory() as made:
            if folder is not None and clip.entry.checkpoint is None and (folder / CARD).exists():
                pathlib.Path(made, CARD).write_bytes(existing(folder, CARD).read_bytes())
            save(made, clip.model, clip.state, clip.entry)
            url, new = _send(repo, _paths(pathlib.Path(made)), *options)
    return url if new else f"{repo} has this model already: {url}"


def _paths(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The files that `save` writes: those of every model, and the tokenizer of one with words."""
    files = (*FILES, TOKENIZER) if (folder / TOKENIZER).exists() else FILES
    return {file: existing(folder, file) for file in files}


def _check(repo: str) -> None:
    odd = (
        re.search(r"--|\.\.|(^|/)[.-]|[.-](/|$)", repo) or len(repo) > 96
    )  # the Hub's rules, which the client applies later
    if odd or not re.fullmatch(REPO, repo, re.ASCII):
        raise ValueError(
            f"A model is published as user/name, got {repo!r}: name the user or organisation, too, in at most 96 ASCII "
            "letters and digits with single -, _ or . between them."
        )


def _send(
    repo: str, paths: Mapping[str, pathlib.Path], name: str, private: bool, revision: str | None, dry_run: bool
) -> tuple[str, bool]:
    """The commit's URL, or what would be sent; and whether this is new."""
    files: dict[str, pathlib.Path | bytes] = dict(paths)
    card = paths[CARD].read_bytes()
    if generated(card):
        files[CARD] = addressed(card, repo)
    if dry_run:
        sizes = {file: len(each) if isinstance(each, bytes) else each.stat().st_size for file, each in files.items()}
        lines = [f"{file:26}{size:>12,} bytes" for file, size in sizes.items()]
        return "\n".join([f"{repo} would get one commit of", *lines]), True
    from ._hub import upload  # huggingface_hub takes long to import

    return upload(repo, files, f"{name}, saved by audax-eqx", private=private, revision=revision)
