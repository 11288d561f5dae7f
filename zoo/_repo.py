"""The files of a model's repo on the Hub, one commit of it, and the models that come with the package."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Sequence

from ._files import CONFIG, SAFETENSORS, bounded, most_bytes, plain
from ._rules import Rule, drops

PACKAGED = pathlib.Path(__file__).parent / "weights"


def packaged() -> list[str]:
    """The names of the models that come with the package and need no network."""
    return sorted(path.parent.name for path in PACKAGED.glob(f"*/{CONFIG}"))


def repo_files(repo: str, revision: str | None, remark: str = "") -> Callable[..., pathlib.Path]:
    """The function that gives the path of a file of the Hub repo; all are of the commit that the first is of.

    Where no revision is given and main has weights as torch files alone, safetensors come from the pull request of the
    Hub's bot. With `rules`, a second argument, a file of weights may lack the arrays that they drop. `remark` ends the
    error where the first file cannot be had.
    """
    from ._converted import converted, pin  # as fetched does
    from ._hub import COMMIT, commit_of
    from ._part import part

    commit = revision
    conversion = functools.cache(functools.partial(converted, repo))

    def known_commit() -> str | None:
        if not COMMIT.fullmatch(commit or ""):
            with contextlib.suppress(OSError, ValueError):
                fetch(CONFIG)  # which tells it
        return commit if COMMIT.fullmatch(commit or "") else None

    def fetch(file: str, rules: Sequence[Rule] = ()) -> pathlib.Path:
        nonlocal commit, remark
        weights = bool(SAFETENSORS.fullmatch(file))
        if weights and drops(rules) and (base := known_commit()) and (path := part(repo, file, base, rules)):
            return path
        try:
            path = fetched(repo, file, commit)
        except OSError as error:
            if weights and revision is None and isinstance(error, FileNotFoundError) and (path := added(file, rules)):
                return path
            raise type(error)(f"{error}{remark}") from error.__cause__
        commit, remark = commit_of(path, file), ""
        return path

    def added(file: str, rules: Sequence[Rule]) -> pathlib.Path | None:
        """The path of a file that the bot adds, None where it cannot be had: then the torch file is as good."""
        if (base := known_commit()) is None or (addition := conversion(base)) is None:
            return None
        with contextlib.suppress(OSError, ValueError):
            path = part(repo, file, addition, rules) or fetched(repo, file, addition)
            pin(repo, base, addition)
            return path
        return None

    return fetch


def is_cached(repo: str) -> bool:
    """Whether the description of a model is in the Hub's cache."""
    from ._hub import cached  # as fetched does

    return cached(repo, CONFIG) is not None


def fetched(repo: str, file: str, revision: str | None = None) -> pathlib.Path:
    """The path of a file of a Hub repo, of no more bytes than a file of that name may have."""
    from ._hub import fetch  # huggingface_hub takes long to import, and only models from the Hub need it

    return bounded(fetch(repo, plain(file), revision, packaged(), most_bytes(file)))


def kept(repo: str, file: str) -> pathlib.Path:
    """The path of a file that does not change: fetched once, and not asked for again."""
    from ._hub import cached  # as fetched does

    path = cached(repo, plain(file))
    return fetched(repo, file) if path is None else bounded(path)


def count_download(repo: str, revision: str | None) -> None:
    """The Hub counts downloads by requests for `config.json`, which a foreign checkpoint may do without."""
    from ._hub import count  # as fetched does

    count(repo, CONFIG, revision)
