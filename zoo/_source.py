"""Where the files of a model lie: in a folder, as a packaged model's do too, or in a repo on the Hub."""

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

    - `name`: the folder's own, or the repo's, "owner/name".
    - `folder`: None for a repo.
    - `commit`: that of a repo's files, None before the first is there.
    """

    name: str
    folder: pathlib.Path | None = None
    commit: str | None = None

    @abc.abstractmethod
    def path(self, file: str, rules: Sequence[Rule] = ()) -> pathlib.Path:
        """The path of a file, which need not hold the arrays that `rules` drop.

        Raises FileNotFoundError where there is none, other OSErrors where it cannot be had, and ValueError for one that
        is too large, or lies elsewhere.
        """

    def count_download(self) -> None:  # noqa: B027, which a folder has no need of
        """Lets the Hub know that a repo's model is used."""


class Folder(Source):
    """A folder on this machine."""

    def __init__(self, folder: pathlib.Path):
        self.folder: pathlib.Path = folder
        self.name = folder.resolve().name

    def path(self, file: str, rules: Sequence[Rule] = ()) -> pathlib.Path:
        return existing(self.folder, file)


def source_of(name: str, revision: str | None = None) -> Source:
    """Where the files of a model lie by any name that `load` takes. The Hub is not asked.

    Raises ValueError and FileNotFoundError for what is none of these, with the nearest name.
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
    parent = os.path.dirname(name.rstrip(os.sep))
    is_repo = bool(re.fullmatch(REPO, name)) and not name.startswith(".")
    if is_repo and (revision is not None or not os.path.isdir(parent) or _is_cached(name)):
        return _repo(name, revision, f" Nor is there a folder {name} in {os.getcwd()}.")
    if is_repo or os.sep in name:
        raise FileNotFoundError(_no_such_folder(name, parent, is_repo))
    near = difflib.get_close_matches(name, [*families.entries(), *packaged(), *os.listdir()], n=1)
    instead = f": did you mean {near[0]!r}?" if near else "."
    raise ValueError(
        f"The zoo has no model {name!r}{instead} There is no folder of that name either. zoo.list_models() names all; "
        'a folder or a Hub repo "owner/name" loads too.'
    )


def packaged() -> list[str]:
    """The names of the models that come with the package and need no network."""
    return sorted(path.parent.name for path in PACKAGED.glob(f"*/{CONFIG}"))


def _repo(name: str, revision: str | None, remark: str = "") -> Source:
    from ._repo import Repo  # whose client of the Hub takes long to import

    return Repo(name, revision, remark)


def _is_cached(repo: str) -> bool:
    """Whether the description of a model is in the Hub's cache."""
    from ._hub import cached_path  # as above

    return cached_path(repo, CONFIG) is not None


def _no_such_folder(name: str, parent: str, is_repo: bool) -> str:
    """The sentence about a path that does not exist, with the nearest beside it."""
    siblings = os.listdir(parent) if os.path.isdir(parent) else []
    near = difflib.get_close_matches(os.path.basename(name.rstrip(os.sep)), siblings, n=1)
    instead = f"did you mean {os.path.join(parent, near[0])}? " if near else ""
    hub = f" The repo {name} of the Hub loads with revision='main'." if is_repo else ""
    return f"{name} is not a folder: {instead}The zoo takes a name of zoo.list_models(), a folder or a Hub repo.{hub}"
