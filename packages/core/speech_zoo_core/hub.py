"""Fetch a checkpoint from the Hugging Face Hub: only the files of the best form that the repo offers."""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

from .checkpoint.source import needed_names
from .errors import HubError, shown

LOG = logging.getLogger("speech_zoo")
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
REVISION = re.compile(r"(?![./-])[\w.+@-]+(/(?!\.)[\w.+@-]+)*")  # branches, tags and commits, but no paths
PLAIN = re.compile(r"(?!\.)[\w.+=-]{1,128}")  # what may name a file in the cache
NAMING = ("etag", "x-linked-etag", "x-repo-commit")  # headers of which the client makes names of files
HASHES = {"sha", "oid", "sha256", "xetHash", "blobId"}  # the same in the answers of the Hub's API


def check_revision(revision: str | None) -> None:
    """Raises HubError unless a revision is the name of a branch or tag, or a commit; the cache has files so named."""
    if revision is not None and (not REVISION.fullmatch(revision) or ".." in revision):
        raise HubError(f"{shown(revision)} is no revision: give a branch, a tag or a commit")


@contextmanager
def guarded() -> Iterator[None]:
    """While this lasts, what the Hub names must be plain hashes before the client makes names of files of them.

    Raises:
        HubError: it is something else, as no Hub gives.
    """
    from huggingface_hub import get_session

    client = get_session()
    before = client.event_hooks
    client.event_hooks = {**before, "response": [*before["response"], _check_names]}
    try:
        yield
    finally:
        client.event_hooks = before


def _check_names(response: Any) -> None:
    """See `guarded`."""
    if response.request.method == "HEAD":
        for key in NAMING:
            _check_name(key, response.headers.get(key, "0").removeprefix("W/").strip('"'))
    elif "/api/models/" in str(response.request.url) and response.request.method == "GET":
        response.read()
        with suppress(ValueError):  # the client says so itself
            _check_hashes(response.json())


def _check_hashes(data: Any) -> None:
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        if isinstance(value, (dict, list)):
            _check_hashes(value)
        elif key in HASHES and value is not None:
            _check_name(str(key), str(value))


def _check_name(key: str, name: str) -> None:
    if not PLAIN.fullmatch(name):
        raise HubError(f"the Hub's answer was refused: its {key} is {shown(name)}, which is no hash")


def download(repo: str, revision: str | None = None) -> tuple[Path, str]:
    """The local folder of a repo and the commit that it is at; uses the cache when the Hub is out of reach.

    Raises:
        HubError: no such repo or revision, no access, no connection and no cached copy, or an answer that is not the
            Hub's.
    """
    from huggingface_hub import errors as hf
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    check_revision(revision)
    no_connection = hf.HTTPError  # type: ignore[attr-defined]  # of httpx or httpx2, whichever the Hub client uses
    at = f"{repo} at revision {revision}" if revision else repo
    if not sys.stderr.isatty() or not LOG.isEnabledFor(logging.WARNING):
        disable_progress_bars()
    try:
        with guarded():
            folder = _fetched(repo, revision, at)
        return folder, folder.name
    except HubError:
        raise
    except hf.GatedRepoError as error:
        raise HubError(f"{repo} is gated: accept its terms on the Hub, then log in with: hf auth login") from error
    except hf.RevisionNotFoundError as error:
        raise HubError(f"{repo} has no revision {shown(revision)}") from error
    except hf.RepositoryNotFoundError as error:
        raise HubError(f"{repo} does not exist on the Hub, or is private: check the name, or hf auth login") from error
    except hf.LocalEntryNotFoundError as error:
        raise HubError(f"the Hub cannot be reached and {at} is not in the local cache: check the connection") from error
    except hf.HFValidationError as error:
        raise HubError(f"{shown(repo)} is not a valid repo name: {error}") from error
    except (no_connection, OSError) as error:
        raise HubError(f"{at} could not be fetched from the Hub: {error}") from error
    except Exception as error:  # the client raises nearly anything on what is no Hub: a login page, say
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise HubError(
            f"{at} could not be fetched: what answered is not the Hub ({reason}); check the connection, or HF_ENDPOINT"
        ) from error


def _fetched(repo: str, revision: str | None, at: str) -> Path:
    """Fetch what is needed, or find it in the cache where there is no connection; raises what the client raises."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub import errors as hf

    try:
        info = HfApi().model_info(repo, revision=revision)
    except hf.HfHubHTTPError:
        raise
    except (hf.HTTPError, OSError):  # type: ignore[attr-defined]
        return _cached(repo, revision)
    wanted = needed_names([item.rfilename for item in info.siblings or []])
    if not wanted:
        raise HubError(f"{at} holds no checkpoint (safetensors, npz, PyTorch or ONNX)")
    LOG.info("fetching %s: %s", at, ", ".join(wanted))
    return Path(snapshot_download(repo, revision=revision, allow_patterns=[escape(name) for name in wanted]))


def _cached(repo: str, revision: str | None) -> Path:
    """The folder of a repo in the local cache; only the files that were wanted lie in it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        folder = getattr(error, "snapshot_path", None)  # newer clients refuse a folder without the unwanted files
        if folder is None or not needed_names([path.name for path in Path(folder).iterdir()]):
            raise
        return Path(folder)
