"""Downloads from the Hugging Face Hub or its cache."""

import contextlib
import dataclasses
import importlib.metadata
import pathlib
import re
import urllib.parse
from collections.abc import Iterator
from typing import Any

import huggingface_hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, http_backoff, tqdm

from ._files import CONFIG, bounded, most_bytes, plain, too_large
from ._source import packaged
from ._warn import warn_user

try:
    VERSION = importlib.metadata.version("audax-eqx")
except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
    VERSION = "0"
LIBRARY = "audax-eqx"  # the Hub counts requests under this name
WAIT = 5  # seconds to wait for an answer that is not needed
COMMIT = re.compile("[0-9a-f]{40}")
REFUSALS = (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError, HFValidationError)


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What the Hub says of a repo: its commit, its files, and the licences on its card, as the card names them."""

    commit: str | None
    files: frozenset[str]
    licenses: tuple[str, ...]


# Files in the client's cache


def download(repo: str, file: str, revision: str | None = None) -> pathlib.Path:
    """The path of a file in the cache, downloaded first if the Hub has a newer one and answers.

    If the cache cannot be written, this warns and returns the older file in it. The repo of a data set is called
    "datasets/owner/name", as in its address.

    Raises OSError with one sentence: FileNotFoundError when the Hub says there is no such repo, revision or file,
    PermissionError for a gated repo, ConnectionError when the file is not cached and the Hub does not answer. Raises
    ValueError for a name that no repo can have and, before the download, for a file that is larger than a file of its
    name may be.
    """
    old_path, is_commit = cached_path(repo, plain(file), revision), COMMIT.fullmatch(revision or "") is not None
    if is_commit and old_path is not None:  # the files of a commit never change
        return bounded(old_path)
    if is_commit and _is_known_to_be_missing(repo, file, revision):
        raise _not_cached_error(repo, file, revision)
    try:
        newest = _file_metadata(repo, file, revision)
    except REFUSALS:  # the download gets the same answer, and reports it
        newest = None
    except HfHubHTTPError as error:  # the download would return an older file without a word
        newest = None
        if old_path is not None and (refusal := _forbidden_error(error, repo, file)):
            warn_user(f"{refusal} This is the version in the cache.")
            return bounded(old_path)
    except Exception as error:  # of the HTTP client, whose errors differ by version: the Hub does not answer
        if old_path is None:
            raise _not_cached_error(repo, file, revision) from error
        return bounded(old_path)
    if newest is not None and old_path is not None and newest.commit_hash == commit_of(old_path, file):
        return bounded(old_path)
    size = 0 if newest is None else newest.size or 0
    if size > most_bytes(file):
        raise ValueError(too_large(f"{file} of {repo}{_at(revision)}", pathlib.PurePosixPath(file).name, size))
    return bounded(_download(repo, file, revision, old_path))


def _download(repo: str, file: str, revision: str | None, old_path: pathlib.Path | None) -> pathlib.Path:
    """Downloads a file and returns its path, or `old_path` if the download or the write to the cache fails.

    Raises as `download` does.
    """
    try:
        path = huggingface_hub.hf_hub_download(
            **_place(repo, file, revision), library_name=LIBRARY, library_version=VERSION
        )
        return pathlib.Path(path)
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise _forbidden_error(error, repo, file) or _not_cached_error(repo, file, revision) from None
    except REFUSALS as error:
        raise _refusal_error(error, repo, file, revision) from None
    except OSError as error:
        if error.strerror is not None and not isinstance(error, ConnectionError):  # of this machine, as a full disk
            cache = huggingface_hub.constants.HF_HUB_CACHE
            if old_path is None:
                raise OSError(
                    f"{file} of {repo} cannot be written to the Hub's cache, {cache} ({error.strerror}): make room "
                    "there, or set HF_HOME to another folder."
                ) from None
            warn_user(
                f"{repo} has changed on the Hub, and its cache, {cache}, cannot be written ({error.strerror}): "
                "this is the older version in the cache.",
            )
            return old_path
        if type(error) is OSError:  # the client raises it for a file of another size than stated
            raise ConnectionError(
                f"The download of {file} of {repo}{_at(revision)} has another size than the Hub states: load it again, "
                "and tell the owner of the repo if that fails, too."
            ) from None
        cause = error
    except Exception as error:  # an error of the HTTP client: a broken connection, a proxy
        cause = error
    if old_path is None:
        raise _forbidden_error(cause, repo, file) or _not_cached_error(repo, file, revision) from cause
    return old_path


def count_download(repo: str, file: str, revision: str | None) -> None:
    """Sends one request for `file`, which the Hub counts as a use of `repo`. The answer is ignored."""
    with contextlib.suppress(Exception):
        _file_metadata(repo, file, revision, WAIT)


def cached_path(repo: str, file: str, revision: str | None = None) -> pathlib.Path | None:
    """The path of a cached file, at the commit that `revision` had at its last download; None if it is not cached."""
    path = _cache(repo, file, revision)
    return pathlib.Path(path) if isinstance(path, str) else None


def _is_known_to_be_missing(repo: str, file: str, revision: str | None) -> bool:
    """Whether the Hub has answered an earlier request with the news that there is no such file."""
    return _cache(repo, file, revision) is huggingface_hub._CACHED_NO_EXIST


def _cache(repo: str, file: str, revision: str | None) -> Any:
    """What the client's cache knows of a file: its path, a mark that the Hub has none, or None."""
    try:
        return huggingface_hub.try_to_load_from_cache(**_place(repo, file, revision))
    except HFValidationError:
        return None


def commit_of(path: pathlib.Path, file: str) -> str:
    """The commit of a path in the cache, which ends in `snapshots/<commit>/<file>`."""
    return path.parents[len(pathlib.PurePosixPath(file).parts) - 1].name


def own_folder(repo: str) -> pathlib.Path:
    """The zoo's own folder within a model's folder in the cache; the client leaves it alone."""
    cache = pathlib.Path(huggingface_hub.constants.HF_HUB_CACHE)
    return cache / repo_folder_name(repo_id=repo, repo_type="model") / "audax"


def _file_metadata(
    repo: str, file: str, revision: str | None, timeout: float | None = None
) -> huggingface_hub.HfFileMetadata:
    """The commit and the size of a file on the Hub. Waits `timeout` seconds, and raises what the client raises."""
    url = huggingface_hub.hf_hub_url(**_place(repo, file, revision))
    timeout = huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT if timeout is None else timeout
    return huggingface_hub.get_hf_file_metadata(url, timeout=timeout, library_name=LIBRARY, library_version=VERSION)


def _place(repo: str, file: str, revision: str | None) -> dict[str, Any]:
    """The client's arguments for a file."""
    kind = "dataset" if repo.startswith("datasets/") and repo.count("/") == 2 else "model"
    name = repo.removeprefix("datasets/") if kind == "dataset" else repo
    return {"repo_id": name, "repo_type": kind, "filename": file, "revision": revision}


def _at(revision: str | None) -> str:
    return f" at revision {revision}" if revision else ""


def _not_cached_error(repo: str, file: str, revision: str | None) -> OSError:
    """The error for a file that is not cached: FileNotFoundError if the Hub once said that there is no such file, else
    ConnectionError."""
    if _is_known_to_be_missing(repo, file, revision):
        return FileNotFoundError(f"The Hub's repo {repo} has no {file}{_at(revision)}.")
    return ConnectionError(
        f"{file} of {repo}{_at(revision)} is neither in the Hub's cache nor reachable: connect to the network once "
        f"(and unset HF_HUB_OFFLINE), or load a packaged model: {', '.join(packaged())}."
    )


def _forbidden_error(error: BaseException | None, repo: str, file: str) -> PermissionError | None:
    """The error for an answer that refuses the request, as of a token that is no longer valid; None for other errors.

    The client hides some answers as the cause of its own error.
    """
    while error is not None:
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            status = error.response.status_code
            if status in (401, 403, 429):
                detail = " ".join((error.server_message or "").split()).rstrip(".")
                remedy = "wait some minutes" if status == 429 else "check HF_TOKEN, or log in with `hf auth login`"
                answer = f"{status}: {detail}" if detail else str(status)
                return PermissionError(f"The Hub refuses to send {file} of {repo} ({answer}): {remedy}.")
        error = error.__cause__
    return None


def _refusal_error(error: Exception, repo: str, file: str, revision: str | None) -> OSError | ValueError:
    """The error for an answer of the Hub that is one of `REFUSALS`."""
    at = f" at revision {revision}" if revision else " on its main branch"
    match error:
        case GatedRepoError():
            return PermissionError(f"{repo} is gated: ask for access on its page and set HF_TOKEN.")
        case RepositoryNotFoundError():
            return FileNotFoundError(
                f"The Hub has no public repo {repo}: check its name, or set HF_TOKEN if it is private."
            )
        case RevisionNotFoundError():
            return FileNotFoundError(f"The Hub's repo {repo} has no revision {revision}.")
        case HFValidationError():
            return ValueError(f"{repo!r} is not the name of a Hub repo: {error}")
        case _:
            return FileNotFoundError(f"The Hub's repo {repo} has no {file}{at}.")


# What the Hub says of a model without a download


def metadata(repo: str, revision: str | None = None) -> Metadata:
    """Asks the Hub, in one request, about a model's repo. Raises OSError and ValueError as `download` does."""
    api = huggingface_hub.HfApi(library_name=LIBRARY, library_version=VERSION)
    with _plain_errors(repo, revision=revision):
        answer = api.model_info(repo, revision=revision, timeout=10)
    card = answer.card_data or huggingface_hub.ModelCardData()
    licenses = card.get("license") or ()
    licenses = [str(name) for name in licenses] if isinstance(licenses, list | tuple) else [str(licenses)]
    names = [str(card.get("license_name") or name) if name == "other" else name for name in licenses]
    return Metadata(answer.sha, frozenset(file.rfilename for file in answer.siblings or ()), tuple(names))


def reach(repo: str, file: str) -> None:
    """Checks that the Hub has a file, cached or not, without a download. Raises as `download` does."""
    with _plain_errors(repo, file):
        _file_metadata(repo, file, None, WAIT)


def safetensors_header(repo: str, file: str, revision: str | None) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """The shape of each array of a safetensors file, and the set of their types, read from about its first 100 kB.

    Raises OSError and ValueError as `download` does, and ValueError for a file that is not safetensors.
    """
    api = huggingface_hub.HfApi(library_name=LIBRARY, library_version=VERSION)
    with _plain_errors(repo, file, revision):
        try:
            arrays = api.parse_safetensors_file_metadata(repo, file, revision=revision).tensors
            shapes = {name: tuple(map(int, array.shape)) for name, array in arrays.items()}
        except (AttributeError, KeyError, TypeError):  # a header that is JSON, and not that of arrays
            raise SafetensorsParsingError from None  # which `_plain_errors` turns into a ValueError
        except ValueError as error:
            raise error if isinstance(error, HFValidationError) else SafetensorsParsingError from None
    return shapes, {str(array.dtype) for array in arrays.values()}


def api_answer(repo: str, *place: str, **options: str) -> Any:
    """The first page of what the Hub's API says of a model at `place`. Raises what the client raises, within seconds.

    The client's own methods have no time limit, and ask for all pages.
    """
    parts = [huggingface_hub.constants.ENDPOINT, "api/models", repo, *(urllib.parse.quote(step, "") for step in place)]
    headers = build_hf_headers(library_name=LIBRARY, library_version=VERSION)
    response = get_session().get("/".join(parts), params=options, headers=headers, timeout=WAIT)
    hf_raise_for_status(response)
    return response.json()


def range_content(repo: str, file: str, commit: str, start: int, stop: int) -> bytes:
    """The bytes of a file from `start` up to `stop`.

    Raises ValueError if the answer is not these bytes, and what the client raises.
    """
    headers = build_hf_headers(library_name=LIBRARY, library_version=VERSION)
    headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    url = huggingface_hub.hf_hub_url(**_place(repo, file, commit))
    response = http_backoff("GET", url, headers=headers, max_retries=2, timeout=10)
    hf_raise_for_status(response)
    if response.status_code != 206 or len(response.content) != stop - start:
        raise ValueError(f"The Hub does not send byte ranges of {file} of {repo}.")
    return response.content


def progress_bar(file: str, size: int) -> Any:
    """The client's progress bar for a download of `size` bytes: `update` moves it, and its `with` block ends it."""
    return tqdm(desc=file, total=size, unit="B", unit_scale=True)


@contextlib.contextmanager
def _plain_errors(repo: str, file: str = CONFIG, revision: str | None = None) -> Iterator[None]:
    """Turns each error of a request into one with one plain sentence."""
    try:
        yield
    except OfflineModeIsEnabled:
        raise ConnectionError(f"{repo} cannot be looked up because HF_HUB_OFFLINE is set: unset it.") from None
    except REFUSALS as error:
        raise _refusal_error(error, repo, file, revision) from None
    except SafetensorsParsingError:
        raise ValueError(f"{file} of {repo} does not begin like a safetensors file, so it cannot be loaded.") from None
    except Exception as error:  # of the HTTP client, whose errors differ by version
        detail = " ".join((getattr(error, "server_message", None) or str(error) or type(error).__name__).split())
        raise ConnectionError(f"{repo} cannot be reached on the Hub ({detail[:120]}): try again.") from None
