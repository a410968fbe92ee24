"""Fetch a checkpoint from the Hugging Face Hub: only the files of the best form that the repo offers."""

import logging
import re
import sys
from pathlib import Path

from .checkpoint.source import needed_names
from .errors import HubError

LOG = logging.getLogger("speech_zoo")
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")


def download(repo: str, revision: str | None = None) -> tuple[Path, str]:
    """The local folder of a repo and the commit that it is at; uses the cache when the Hub is out of reach.

    Raises:
        HubError: no such repo or revision, no access, or no connection and no cached copy.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub import errors as hf
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    no_connection = hf.HTTPError  # type: ignore[attr-defined]  # of httpx or httpx2, whichever the Hub client uses
    at = f"{repo} at revision {revision}" if revision else repo
    if not sys.stderr.isatty() or not LOG.isEnabledFor(logging.WARNING):
        disable_progress_bars()
    try:
        try:
            info = HfApi().model_info(repo, revision=revision)
        except hf.HfHubHTTPError:
            raise
        except (no_connection, OSError):
            folder = _cached(repo, revision)
        else:
            wanted = needed_names([item.rfilename for item in info.siblings or []])
            if not wanted:
                raise HubError(f"{at} holds no checkpoint (safetensors, npz, PyTorch or ONNX)")
            LOG.info("fetching %s: %s", at, ", ".join(wanted))
            folder = Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))
        return folder, folder.name
    except hf.GatedRepoError as error:
        raise HubError(f"{repo} is gated: accept its terms on the Hub, then log in with: hf auth login") from error
    except hf.RevisionNotFoundError as error:
        raise HubError(f"{repo} has no revision {revision!r}") from error
    except hf.RepositoryNotFoundError as error:
        raise HubError(f"{repo} does not exist on the Hub, or is private: check the name, or hf auth login") from error
    except hf.LocalEntryNotFoundError as error:
        raise HubError(f"the Hub cannot be reached and {at} is not in the local cache: check the connection") from error
    except hf.HFValidationError as error:
        raise HubError(f"{repo!r} is not a valid repo name: {error}") from error
    except (no_connection, OSError) as error:
        raise HubError(f"{at} could not be fetched from the Hub: {error}") from error


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
