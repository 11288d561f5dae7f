"""Repos of the stand-in for the Hugging Face Hub (tests/hub.py).

They live in memory: branches are lists of commits, commits are dictionaries of files, and a pull request is a branch
`refs/pr/NUMBER` beside what its discussion says.
"""

import dataclasses
import hashlib
import json
import pathlib
import threading

TOKEN, READER = "hf_writer", "hf_reader"  # the second may not write


@dataclasses.dataclass
class Repo:
    private: bool = False
    gated: bool = False
    branches: dict[str, list[str]] = dataclasses.field(default_factory=lambda: {"main": []})
    commits: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    discussions: list[dict] = dataclasses.field(default_factory=list)

    def commit(self, branch, files):
        """A commit with these files beside those of the one before; gives its name."""
        history = self.branches[branch]
        content = (self.commits[history[-1]] if history else {}) | files
        digests = [(file, etag(file, data)) for file, data in sorted(content.items())]
        name = hashlib.sha1(json.dumps([branch, len(history), digests]).encode()).hexdigest()
        self.commits[name] = content
        history.append(name)
        return name

    def find(self, revision):
        """The commit that a branch or a commit's name means, None for neither."""
        if revision in self.branches:
            return self.branches[revision][-1] if self.branches[revision] else None
        return revision if revision in self.commits else None


class Hub:
    """`faults` make the next answers about a file wrong: see `fault`."""

    def __init__(self):
        self.repos, self.stored, self.log, self.faults, self.redirects = {}, {}, [], {}, False
        self.barrier, self.refusals = threading.Barrier(2), {}

    def put(self, repo, folder=None, *, private=False, gated=False, files=None):
        """Makes a repo of a folder's files, or of texts; gives the commit."""
        target = self.repos.setdefault(repo, Repo(private, gated))
        content = {name: text.encode() for name, text in (files or {}).items()}
        if folder is not None:
            content |= {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}
        return target.commit("main", content)

    def discuss(self, repo, folder, *, behind=0, twice=False, files=None, title=None, author="SFconvertbot", **fields):
        """Opens a pull request with a folder's files, as the bot that converts weights does; gives its commit.

        It stands on main as that was `behind` commits ago. With `twice` it has two commits. `fields` are of its
        discussion: "status", "isPullRequest".
        """
        target = self.repos[repo]
        number = len(target.discussions) + 1
        title = "Adding `safetensors` variant of this model" if title is None else title
        writer = {"name": author} if author else None
        opening = {"num": number, "title": title, "author": writer, "status": "open", "isPullRequest": True}
        target.discussions.append(opening | fields)
        main, branch = target.branches["main"], f"refs/pr/{number}"
        target.branches[branch] = main[: len(main) - behind]
        content = {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()} if folder else {}
        content |= {name: text.encode() for name, text in (files or {}).items()}
        commit = target.commit(branch, content)
        return target.commit(branch, {}) if twice else commit

    def refuse(self, repo, place, status):
        """What to answer to the API's requests about a repo: a status, 0 for silence, None to answer as is right.

        `place` is "discussions", "commits" or "revision".
        """
        self.refusals[repo, place] = status

    def head(self, repo, revision="main"):
        """The newest commit of a branch."""
        return self.repos[repo].find(revision)

    def remove(self, repo):
        """Takes a repo away."""
        del self.repos[repo]

    def file(self, repo, name, revision="main"):
        """The text of a file."""
        return self.repos[repo].commits[self.repos[repo].find(revision)][name].decode()

    def fault(self, repo, name, kind, times=1):
        """How to answer the next `times` requests for the content of a file.

        "cut": half of it. "huge": a size of 1 GB, and nothing. "unsized": 20 MB, and no size. "short": another size in
        its metadata than it has. "busy": status 503, "expired": 401, "forbidden": 403,
        "limited": 429. "moves": right, and then main gets a commit in which all files are
        empty. "whole": the whole file, where a part is asked for. "torn": half of a part, and the
        whole file as it is.
        """
        self.faults[repo, name] = [kind] * times

    def meet(self):
        """Answers when two processes have asked."""
        self.barrier.wait(timeout=500)

    def redirect(self, on):
        """Whether large files lie on another host, as on the Hub."""
        self.redirects = on

    def requests(self):
        """What was asked since the last call: method, path, host, range, token, agent, and how many bytes were sent."""
        requests, self.log = self.log, []
        return requests


def is_large(name):
    return name.endswith((".safetensors", ".bin"))


def etag(name, content):
    """As the Hub names contents: SHA-256 for large files, git's SHA-1 for others."""
    if is_large(name):
        return hashlib.sha256(content).hexdigest()
    return git_blob(content)


def git_blob(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
