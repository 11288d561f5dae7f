"""Publishes models on the Hub."""

import os
import pathlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from typing import Literal

import equinox as eqx

from ._card import is_generated, with_address
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

    The repo is created if it does not exist, and so is the branch `revision` (by default main). If the repo has the
    same model already, there is no new commit: the Hub's client says so, and the URL is that of the last commit. A card
    that was written by hand on the Hub stays. `layout` is that of `save`. With exports=("stablehlo", "onnx"), or one of
    these, `export` also writes `model.stablehlo` and `model.onnx` from the saved weights. With `dry_run` nothing is
    sent, and the files and their sizes are returned instead of the URL. The token is that of HF_TOKEN, or of
    `hf auth login`.

    Raises ValueError as `save` and `export` do, for a name other than "user/name", and with `private` for a repo that
    is public. Raises OSError: PermissionError without a token that may write, ConnectionError when the Hub cannot be
    reached.
    """
    _check(repo, exports)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        save(folder, model, state, entry, dtype=dtype, layout=layout)
        paths = _paths(folder) | _export_all(folder, folder, exports)
        return _send(repo, paths, entry.name, private, revision, dry_run)[0]


def republish(
    name: str | os.PathLike,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    dtype: Literal["float32", "float16"] | None = None,
    layout: Literal["audax", "transformers"] | None = None,
    exports: Sequence[str] = (),
    dry_run: bool = False,
) -> str:
    """Uploads any model that `load` takes, and returns a message for the user.

    A complete folder is sent unchanged, unless there is a `dtype` or another `layout`, for which it is saved anew. The
    other options are those of `publish`.
    """
    _check(repo, exports)
    folder = source_of(os.fspath(name)).folder
    is_complete = folder is not None and all((folder / file).exists() for file in FILES)
    clip = load(name, verify=is_complete)
    folder_layout = "audax" if clip.entry.checkpoint is None else "transformers"
    with tempfile.TemporaryDirectory() as temporary:
        target = pathlib.Path(temporary)
        if folder is None or not is_complete or dtype is not None or layout not in (None, folder_layout):
            if folder is not None and clip.entry.checkpoint is None and (folder / CARD).exists():
                (target / CARD).write_bytes(existing(folder, CARD).read_bytes())
            layout = layout or (folder_layout if is_complete else "audax")
            save(target, clip.model, clip.state, clip.entry, dtype=dtype or "float32", layout=layout)
            folder = target
        paths = _paths(folder) | _export_all(folder, target, exports)
        url, new = _send(repo, paths, clip.entry.name, private, revision, dry_run)
    return url if new else f"{repo} has this model already: {url}"


def _paths(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The paths of the files that `save` writes: those of every model, and the tokenizer of a model with words."""
    files = (*FILES, TOKENIZER) if (folder / TOKENIZER).exists() else FILES
    return {file: existing(folder, file) for file in files}


def _export_all(folder: pathlib.Path, target: pathlib.Path, formats: Sequence[str]) -> dict[str, pathlib.Path]:
    """The paths in `target` of the model in `folder`, exported in each of the formats."""
    paths = {f"model.{format}": target / f"model.{format}" for format in formats}
    for path in paths.values():
        export(load(folder), path)
    return paths


def _check(repo: str, exports: Sequence[str]) -> None:
    """Raises ValueError for a name that the Hub refuses, and for formats that `export` does not write."""
    odd = (
        re.search(r"--|\.\.|(^|/)[.-]|[.-](/|$)", repo) or len(repo) > 96
    )  # the Hub's rules, which the client applies later
    if odd or not re.fullmatch(REPO, repo, re.ASCII):
        raise ValueError(
            f"A model is published as user/name, got {repo!r}: name the user or organisation, too, in at most 96 ASCII "
            "letters and digits with single -, _ or . between them."
        )
    if isinstance(exports, str) or not {f".{each}" for each in exports} <= set(SUFFIXES):
        formats = " and ".join(repr(suffix[1:]) for suffix in SUFFIXES)
        raise ValueError(
            f"exports is a list of {formats}, got {exports!r}: give exports=('stablehlo',), or --exports stablehlo in "
            "the shell."
        )


def _send(
    repo: str, paths: Mapping[str, pathlib.Path], name: str, private: bool, revision: str | None, dry_run: bool
) -> tuple[str, bool]:
    """The commit's URL, or with `dry_run` a list of the files; and whether the commit is new."""
    files: dict[str, pathlib.Path | bytes] = dict(paths)
    card = paths[CARD].read_bytes()
    if is_generated(card):
        files[CARD] = with_address(card, repo)
    if dry_run:
        sizes = {
            file: len(content) if isinstance(content, bytes) else content.stat().st_size
            for file, content in files.items()
        }
        lines = [f"{file:26}{size:>12,} bytes" for file, size in sizes.items()]
        return "\n".join([f"{repo} would get one commit of", *lines]), True
    from ._upload import upload  # huggingface_hub takes long to import

    return upload(repo, files, f"{name}, saved by audax-eqx", private=private, revision=revision)
