"""The files of a model's repo on the Hub, all from one commit."""

import contextlib
import functools
import pathlib
from collections.abc import Sequence

from ._converted import converted, pin
from ._files import CONFIG, SAFETENSORS
from ._hub import COMMIT, cached_path, commit_of, count_download, download
from ._part import part
from ._rules import Rule, drops
from ._source import Source


class Repo(Source):
    """A repo at one commit: the newest of `revision` (by default main) when the first file is fetched.

    If main has its weights as torch files alone, safetensors come from the pull request of the Hub's bot. A given
    `revision` means its own files, so pull requests are ignored. `remark` is added to the error about the first file.
    """

    def __init__(self, name: str, revision: str | None = None, remark: str = ""):
        self.name, self.revision, self.remark = name, revision, remark
        self.commit = revision if COMMIT.fullmatch(revision or "") else None
        self._converted = functools.cache(functools.partial(converted, name))

    def path(self, file: str, rules: Sequence[Rule] = ()) -> pathlib.Path:
        """As `Source.path`."""
        if not SAFETENSORS.fullmatch(file):
            return self._download(file)
        if drops(rules) and (commit := self._known_commit()) and (path := part(self.name, file, commit, rules)):
            return path
        try:
            return self._download(file)
        except FileNotFoundError:
            if self.revision is None and (path := self._converted_path(file, rules)):
                return path
            raise

    def count_download(self) -> None:
        """As `Source.count_download`, by a request for `config.json`."""
        if not COMMIT.fullmatch(self.revision or ""):  # a commit is loaded without any request
            count_download(self.name, CONFIG, self.revision)

    def _download(self, file: str) -> pathlib.Path:
        """The path of a file of the commit. The first file sets the commit."""
        try:
            path = download(self.name, file, self.commit or self.revision)
        except (ConnectionError, FileNotFoundError) as error:
            raise type(error)(f"{error}{self.remark}") from error.__cause__
        self.commit, self.remark = commit_of(path, file), ""
        return path

    def _known_commit(self) -> str | None:
        """The commit, which a download of `config.json` may have to find out; None if that fails."""
        if self.commit is None:
            with contextlib.suppress(OSError, ValueError):
                self._download(CONFIG)
        return self.commit

    def _converted_path(self, file: str, rules: Sequence[Rule]) -> pathlib.Path | None:
        """The path of a file that the Hub's bot converted; None if it cannot be fetched: the torch file then serves."""
        if (commit := self._known_commit()) is None or (addition := self._converted(commit)) is None:
            return None
        with contextlib.suppress(OSError, ValueError):
            path = part(self.name, file, addition, rules) or download(self.name, file, addition)
            pin(self.name, commit, addition)
            return path
        return None


def download_once(repo: str, file: str) -> pathlib.Path:
    """The path of a file that does not change: it is downloaded once, and the Hub is not asked again."""
    return cached_path(repo, file) or download(repo, file)
