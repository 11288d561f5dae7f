"""The places that hold the files of a model: a folder (also for packaged models), or a repo on the Hub."""

import abc
import difflib
import os
import pathlib
import re
from collections.abc import Sequence

from . import families
from ._files import CONFIG, existing, no_folder
from ._rules import Rule

REPO = r"[\w.-]+/[\w.-]+"
PACKAGED = pathlib.Path(__file__).parent / "weights"


class Source(abc.ABC):
    """The files of one model.

    - `name`: the name of the folder, or of the repo, "owner/name".
    - `folder`: None for a repo.
    - `commit`: the commit of a repo's files, once it is known; None for a folder.
    """

    name: str
    folder: pathlib.Path | None = None
    commit: str | None = None

    @abc.abstractmethod
    def path(self, file: str, rules: Sequence[Rule] = ()) -> pathlib.Path:
        """The path of a file. The file may lack the arrays that `rules` drop.

        Raises FileNotFoundError if there is no such file, another OSError if it cannot be fetched or read, and
        ValueError if it is too large, or lies outside of the folder.
        """

    def count_download(self) -> None:  # noqa: B027, a folder has nothing to count
        """Counts one use of a repo's model, by one request to the Hub."""


class Folder(Source):
    """A folder on this machine."""

    def __init__(self, folder: pathlib.Path):
        self.folder: pathlib.Path = folder
        self.name = folder.resolve().name

    def path(self, file: str, rules: Sequence[Rule] = ()) -> pathlib.Path:
        return existing(self.folder, file)


def source_of(name: str, revision: str | None = None) -> Source:
    """The source of the model that `load(name)` loads. Sends no request to the Hub.

    Raises ValueError or FileNotFoundError for a name that does not load, and suggests the nearest one. Raises
    ValueError for a revision of a folder.
    """
    if (entry := families.entries().get(name)) is not None:
        assert entry.checkpoint is not None, f"{name} is published and has no checkpoint"
        return _repo(entry.checkpoint.repo, revision)
    folder = PACKAGED / name if name in packaged() else pathlib.Path(name)
    if name and folder.is_dir():
        if revision is not None:
            raise ValueError(f"revision={revision!r} is a version on the Hub, and {name} is a folder: leave it out.")
        return Folder(folder)
    if os.path.lexists(name):
        raise ValueError(no_folder(folder))
    parent = os.path.dirname(name.rstrip(os.sep))  # "" for a name in the working directory
    is_repo = bool(re.fullmatch(REPO, name)) and not name.startswith(".")
    if is_repo and (revision is not None or not os.path.isdir(parent) or _is_cached(name)):
        return _repo(name, revision, f" There is no folder {name} in {_working_directory()} either.")
    if is_repo or os.sep in name:
        raise FileNotFoundError(_no_such_folder(name, parent, is_repo))
    near = difflib.get_close_matches(name, [*families.entries(), *packaged(), *_listing("")], n=1)
    instead = f": did you mean {near[0]!r}?" if near else "."
    raise ValueError(
        f"The zoo has no model {name!r}{instead} There is no folder of that name either. zoo.list_models() names all; "
        'a folder or a Hub repo "owner/name" loads too.'
    )


def packaged() -> list[str]:
    """The names of the models that come with the package and need no network."""
    return sorted(path.parent.name for path in PACKAGED.glob(f"*/{CONFIG}"))


def _repo(name: str, revision: str | None, remark: str = "") -> Source:
    from ._repo import Repo  # the Hub's client takes long to import

    return Repo(name, revision, remark)


def _is_cached(repo: str) -> bool:
    """Whether the `config.json` of a repo is in the Hub's cache."""
    from ._hub import cached_path  # as above

    return cached_path(repo, CONFIG) is not None


def _no_such_folder(name: str, parent: str, is_repo: bool) -> str:
    """The error message for a path that does not exist; it suggests the nearest name in the same folder."""
    near = difflib.get_close_matches(os.path.basename(name.rstrip(os.sep)), _listing(parent), n=1)
    instead = f"did you mean {os.path.join(parent, near[0])}? " if near else ""
    hub = f" The repo {name} of the Hub loads with revision='main'." if is_repo else ""
    return f"{name} is not a folder: {instead}The zoo takes a name of zoo.list_models(), a folder or a Hub repo.{hub}"


def _listing(folder: str) -> list[str]:
    """The names in a folder, "" for the working directory; none if it cannot be read."""
    try:
        return os.listdir(folder or ".")
    except OSError:
        return []


def _working_directory() -> str:
    """The path of the working directory, which may have been removed."""
    try:
        return os.getcwd()
    except OSError:
        return "the working directory"
