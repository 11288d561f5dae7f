"""Safetensors in a pull request: the Hub's bot converted many repos of torch files, and most of its requests stay open.

Anybody can open a pull request. The zoo accepts a request only if all of these conditions hold: it is open; the bot
wrote it and gave it its title; it is one commit on top of main's newest; it adds weights in safetensors and changes
nothing else. These are the conditions of transformers and the last one in addition. The zoo takes the commit of the
request, not its branch, because a branch may move.
"""

import contextlib
from typing import Any

from ._files import INSTEAD, SAFETENSORS
from ._hub import COMMIT, api_answer, cached_path, own_folder
from ._weights import atomic

TITLE, BOT = "Adding `safetensors` variant of this model", "SFconvertbot"
TORCH = frozenset(file for file in INSTEAD if not SAFETENSORS.fullmatch(file))
ATTRIBUTES = ".gitattributes"  # the Hub itself marks large files in it
CANDIDATES = 3  # at most this number of requests is examined


def converted(repo: str, commit: str) -> str | None:
    """The commit that adds safetensors to `commit`, main's newest; None if there is none or if it cannot be determined.

    A pinned commit needs no query to the Hub. If the repo's torch file is in the cache, no other file is searched.
    """
    with contextlib.suppress(OSError, ValueError):
        pin_text = (own_folder(repo) / commit).read_text(encoding="utf-8")
        if COMMIT.fullmatch(pin_text):
            return pin_text
    if any(cached_path(repo, file, commit) for file in TORCH):
        return None
    with contextlib.suppress(Exception):  # of any kind: the torch file loads without the Hub's answer
        return _search(repo, commit)
    return None


def pin(repo: str, commit: str, addition: str) -> None:
    """Records in the cache that `addition` adds safetensors to `commit`, if the cache can be written."""
    with contextlib.suppress(OSError):
        own_folder(repo).mkdir(parents=True, exist_ok=True)
        with atomic(own_folder(repo) / commit) as temporary:
            temporary.write_text(addition, encoding="utf-8")


def _search(repo: str, commit: str) -> str | None:
    """Searches the Hub for such a commit. Raises KeyError, ValueError and TypeError for unexpected answers."""
    discussions = api_answer(repo, "discussions", author=BOT, type="pull_request", status="open")["discussions"]
    numbers = sorted((int(each["num"]) for each in discussions if _is_by_bot(each)), reverse=True)[:CANDIDATES]
    files = _blobs(repo, commit) if numbers else {}
    if not TORCH & files.keys():
        return None
    for number in numbers:
        addition, parent = (str(each["id"]) for each in api_answer(repo, "commits", f"refs/pr/{number}")[:2])
        if parent == commit and COMMIT.fullmatch(addition) and _adds_safetensors(files, _blobs(repo, addition)):
            return addition
    return None


def _is_by_bot(discussion: Any) -> bool:
    """Whether a discussion is an open pull request by the bot with the bot's title."""
    request = discussion["isPullRequest"] is True and discussion["status"] == "open"
    return request and discussion["title"] == TITLE and (discussion.get("author") or {}).get("name") == BOT


def _blobs(repo: str, commit: str) -> dict[str, str]:
    """The files of a commit with the hash of each content. Raises ValueError if the Hub leaves a hash out."""
    files = api_answer(repo, "revision", commit, blobs="true")["siblings"]
    blobs = {each["rfilename"]: each["blobId"] for each in files}
    if not all(isinstance(each, str) for each in blobs.values()):
        raise ValueError(f"The Hub does not tell the files of {repo} apart.")
    return blobs


def _adds_safetensors(old: dict[str, str], new: dict[str, str]) -> bool:
    """Whether a commit adds weights in safetensors, and leaves all other files as they are."""
    changes = {file for file in old.keys() | new.keys() if old.get(file) != new.get(file)} - {ATTRIBUTES}
    return bool(changes) and not changes & old.keys() and all(map(SAFETENSORS.fullmatch, changes))
