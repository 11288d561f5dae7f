"""Uploads to the Hugging Face Hub."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping

import huggingface_hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from ._card import is_generated
from ._files import CARD
from ._hub import LIBRARY, VERSION


def upload(
    repo: str, files: Mapping[str, pathlib.Path | bytes], message: str, *, private: bool, revision: str | None
) -> tuple[str, bool]:
    """Uploads `files` in one commit to `repo`, which is created if needed; returns the commit's URL and whether it is
    new.

    A card that was written by hand on the Hub stays, unless the card in `files` was written by hand too.
    """
    api = huggingface_hub.HfApi(library_name=LIBRARY, library_version=VERSION)
    with _plain_upload_errors(repo):
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise ValueError(f"{repo} is public already: make it private on its page first, or choose another name.")
        if revision not in (None, "main"):
            api.create_branch(repo, branch=revision, exist_ok=True)
        parent = api.model_info(repo, revision=revision)
        hub_card, new_card = _card(api, repo, revision), files[CARD]
        new_card = new_card if isinstance(new_card, bytes) else new_card.read_bytes()
        if hub_card is not None and is_generated(new_card) and not is_generated(hub_card):
            files = {name: content for name, content in files.items() if name != CARD}
        additions = [huggingface_hub.CommitOperationAdd(name, content) for name, content in files.items()]
        commit = api.create_commit(
            repo, additions, commit_message=message, revision=revision, parent_commit=parent.sha
        )  # the Hub refuses it if somebody has committed since, perhaps another card
    return commit.commit_url, commit.oid != parent.sha


def _card(api: huggingface_hub.HfApi, repo: str, revision: str | None) -> bytes | None:
    """The repo's card; None if it has none."""
    try:
        return pathlib.Path(api.hf_hub_download(repo, CARD, revision=revision)).read_bytes()
    except LocalEntryNotFoundError:  # also an EntryNotFoundError, but the Hub did not answer
        raise
    except EntryNotFoundError:
        return None


@contextlib.contextmanager
def _plain_upload_errors(repo: str) -> Iterator[None]:
    """Turns each error of an upload into one with one plain sentence."""
    try:
        yield
    except OfflineModeIsEnabled:
        raise ConnectionError(f"{repo} is not published because HF_HUB_OFFLINE is set: unset HF_HUB_OFFLINE.") from None
    except HFValidationError as error:
        raise ValueError(f"{repo!r} is not the name of a Hub repo: {error}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403, 404):
            raise PermissionError(
                f"You have no permission to write to {repo} on the Hub: set HF_TOKEN to a token that may, or log in "
                "with `hf auth login`."
            ) from None
        detail = " ".join((error.server_message or str(error)).split())
        raise OSError(f"The Hub refused the upload to {repo}: {detail}.") from None
    except ValueError as error:  # about the card's metadata, on several lines
        raise ValueError(" ".join(str(error).split())) from None
    except Exception as error:
        if isinstance(error, OSError) and error.strerror is not None:
            raise  # an error of this machine
        # All others are errors of the HTTP client, which differ by version
        raise ConnectionError(
            f"{repo} is not published because the Hub cannot be reached ({error}): try again."
        ) from None
