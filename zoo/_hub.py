"""Files from the Hugging Face Hub, or from its cache."""

import pathlib

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
)


def fetch(repo: str, file: str, revision: str | None, packaged: list[str]) -> pathlib.Path:
    """The path of `file` in the cache, fetched first if the Hub has a newer one and can be reached.

    Raises OSError with one sentence: FileNotFoundError when the Hub says there is no such repo, revision or file,
    PermissionError for a gated repo, ConnectionError when the file is neither cached nor reachable; this one names
    `packaged`, the models that need no network.
    """
    at = f" at revision {revision}" if revision else ""
    unreachable = ConnectionError(
        f"{file} of {repo}{at} is neither in the Hub's cache nor reachable: connect to the network once "
        f"(and unset HF_HUB_OFFLINE), or load a packaged model: {', '.join(packaged)}."
    )
    try:
        return pathlib.Path(huggingface_hub.hf_hub_download(repo, file, revision=revision, library_name="audax-eqx"))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise unreachable from None
    except GatedRepoError:
        raise PermissionError(f"{repo} is gated: ask for access on its page and set HF_TOKEN.") from None
    except RepositoryNotFoundError:
        raise FileNotFoundError(
            f"The Hub has no public repo {repo}: check its name, or set HF_TOKEN if it is private."
        ) from None
    except (RevisionNotFoundError, EntryNotFoundError):
        raise FileNotFoundError(f"The Hub's repo {repo} has no {file}{at or ' on its main branch'}.") from None
    except HFValidationError as error:
        raise ValueError(f"{repo!r} is not the name of a Hub repo: {error}") from None
    except OSError as error:
        if not isinstance(error, HfHubHTTPError | ConnectionError):
            raise  # of this machine: a full disk, say
        cause = error
    except Exception as error:  # of the HTTP client, which differs by version: a broken connection, a proxy
        cause = error
    try:
        path = huggingface_hub.hf_hub_download(repo, file, revision=revision, local_files_only=True)
    except LocalEntryNotFoundError:
        raise unreachable from cause
    return pathlib.Path(path)
