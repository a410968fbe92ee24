"""Publish a converted checkpoint on the Hugging Face Hub: one commit or one pull request, read back and compared."""

import email.utils
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from speech_zoo_core.errors import ConfigError, HubError

from .preflight import OURS, File, Publishable, publishable, warn, with_repo_in_card

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

ATTEMPTS = 5
LONGEST_WAIT = 300  # seconds that the Hub may ask to wait
LOOK_AGAIN = 412  # what the Hub says when somebody else committed in between
RETRIED = (408, 429, 500, 502, 503, 504, LOOK_AGAIN)
RESERVED = ("api", "buckets", "collections", "datasets", "docs", "kernels", "models", "papers", "spaces")
NO_BRANCH = re.compile(r"^[-/.]|[/.]$|\.\.|//|@\{|\.lock$|[\s~^:?*\[\\]|^[0-9a-f]{40}$|^$")  # git's rules, and commits


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What was published, or would be.

    Attributes:
        repo: `org/name`; as given in a dry run.
        revision: the branch.
        files: what the branch holds now.
        url: where to look; None in a dry run.
        commit: the commit that holds the files; None in a dry run.
        changed: whether there is a new commit; False where the Hub had the same files already.
        removed: files of an earlier upload that the commit deleted.
    """

    repo: str
    revision: str
    files: list[File]
    url: str | None = None
    commit: str | None = None
    changed: bool = False
    removed: list[str] = field(default_factory=list)


def upload(
    checkpoint: str | os.PathLike[str],
    repo: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> Upload:
    """Publish a converted checkpoint on the Hugging Face Hub, in one commit that is read back and compared.

    Uploaded again, the same files make no second commit. Weights of an earlier upload that are no longer part of the
    checkpoint are deleted in the same commit.

    Args:
        checkpoint: a folder that `convert` wrote, with the card that `speech-zoo card` wrote.
        repo: `org/name`, or `name` for the account that the token is of; created if it is not there.
        private: create the repo as a private one.
        create_pr: open a pull request instead of writing to the branch.
        revision: the branch, created if it is not there; default: main.
        dry_run: only look whether the folder may be published; needs no token and no network.
        force: upload without a card, or with a `parity.json` that failed or belongs to other files.

    Raises:
        SpeechZooError: one line that says what is wrong and what to do.
    """
    _check_repo_name(repo)
    branch = "main" if revision is None else revision
    if NO_BRANCH.search(branch):
        raise ConfigError(f"{branch!r} is not the name of a branch")
    folder = Path(checkpoint).expanduser()
    content = publishable(folder, force)
    if "/" in repo:
        content = with_repo_in_card(content, repo)
    if dry_run:
        return Upload(repo=repo, revision=branch, files=content.files)
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise HubError("no Hugging Face token; log in with: hf auth login")
    with _quiet_client():
        return _Publication(HfApi(), content, repo, branch, private, create_pr).run()


def _check_repo_name(repo: str) -> None:
    """Refuse a name that the Hub would refuse; no network is needed.

    Raises:
        ConfigError: says what is wrong with it.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"{repo!r} is not a valid repo name: {error}") from error
    if not repo.isascii():
        raise ConfigError(f"{repo!r} is not a valid repo name: the Hub takes ASCII letters, digits, '-', '_' and '.'")
    if "/" in repo and repo.split("/", maxsplit=1)[0].lower() in RESERVED:
        raise ConfigError(f"{repo!r} is not a valid repo name: give org/name, without the kind of repo")


@contextmanager
def _quiet_client() -> Iterator[None]:
    """No bars without a terminal; what the client logs about each retry is left to the error at the end."""
    from huggingface_hub.utils import disable_progress_bars, logging  # type: ignore[attr-defined]

    if not sys.stderr.isatty():
        disable_progress_bars()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@dataclass
class _Publication:
    """One upload, which may take several attempts; each looks first at what the Hub has.

    Attributes:
        sent: whether a commit was asked for; then the Hub may have made it though its answer was lost.
    """

    api: "HfApi"
    content: Publishable
    repo: str
    branch: str
    private: bool
    create_pr: bool
    sent: bool = False
    removed: list[str] = field(default_factory=list)

    def run(self) -> Upload:
        """Try until it is done, or there is no hope.

        Raises:
            HubError: says why.
        """
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._attempt()
            except (HTTPError, OSError, ValueError, RuntimeError) as error:
                cause = _cause(error)
                wait = _wait(cause, attempt)
                if wait is None or wait > LONGEST_WAIT or attempt == ATTEMPTS:
                    raise HubError(self._explain(cause, wait)) from error
                if sys.stderr.isatty():
                    warn(f"{self._explain(cause, wait).split(';')[0]}; trying again in {wait:.0f} s")
                time.sleep(wait)
        raise AssertionError("unreachable")

    def _attempt(self) -> Upload:
        if "/" not in self.repo:
            self.repo = f"{self.api.whoami()['name']}/{self.repo}"
            self.content = with_repo_in_card(self.content, self.repo)
        head = self._head()
        if not self._differences(head):
            return self._result(self._url(), head.sha, self.sent)
        if self.create_pr and (same := self._same_pull_request()):
            return self._result(*same, self.sent)
        url, commit = self._commit(head)
        # `main` may have moved on since, the commit cannot.
        if wrong := self._differences(self._look(commit)):
            raise HubError(
                f"{self.repo} holds other content at commit {commit} than {self.content.folder}: {', '.join(wrong)}; "
                "do not use that commit, upload again"
            )
        return self._result(url, commit, True)

    def _result(self, url: str, commit: str | None, changed: bool) -> Upload:
        removed = self.removed if changed else []
        files = self.content.files
        return Upload(
            repo=self.repo, revision=self.branch, files=files, url=url, commit=commit, changed=changed, removed=removed
        )

    def _url(self) -> str:
        place = "" if self.branch == "main" else f"/tree/{quote(self.branch, safe='')}"
        return f"{self.api.endpoint}/{self.repo}{place}"

    def _look(self, revision: str | None) -> "ModelInfo":
        return self.api.model_info(self.repo, revision=revision, files_metadata=True)

    def _head(self) -> "ModelInfo":
        """What the branch holds; the repo and the branch are created if need be."""
        from huggingface_hub import errors as hf

        try:
            info = self._look(None)
        except hf.RepositoryNotFoundError:
            self.api.create_repo(self.repo, private=self.private or None, exist_ok=True)
            info = self._look(None)
        if self.private and not info.private:
            raise HubError(
                f"{self.repo} exists already and is public; make it private on the Hub, or leave --private out"
            )
        if self.branch == "main":
            return info
        try:
            return self._look(self.branch)
        except hf.RevisionNotFoundError:
            self.api.create_branch(self.repo, branch=self.branch, exist_ok=True)
            return self._look(self.branch)

    def _differences(self, info: "ModelInfo") -> list[str]:
        """The names of files that a commit lacks, has with other content, or should not have."""
        remote = {file.rfilename: file for file in info.siblings or []}
        wrong = self._stale(info)
        for file in self.content.files:
            there = remote.get(file.name)
            if there is None or (there.lfs.sha256 != file.sha256 if there.lfs else there.blob_id != file.git):
                wrong.append(file.name)
        return sorted(wrong)

    def _stale(self, info: "ModelInfo") -> list[str]:
        """Files of an earlier upload that a loader would read along with the new ones."""
        kept = {file.name for file in self.content.files}
        names = [file.rfilename for file in info.siblings or []]
        return sorted(name for name in names if OURS.fullmatch(name) and name not in kept)

    def _same_pull_request(self) -> tuple[str, str | None] | None:
        """Address and commit of an open pull request to the branch that has the same content."""
        requests = self.api.get_repo_discussions(self.repo, discussion_type="pull_request", discussion_status="open")
        for request in requests:
            info = self._look(f"refs/pr/{request.num}")
            if self._differences(info):
                continue
            base = self.api.get_discussion_details(self.repo, request.num).target_branch or "main"
            if base.removeprefix("refs/heads/") == self.branch:
                return f"{self.api.endpoint}/{self.repo}/discussions/{request.num}", info.sha
        return None

    def _commit(self, head: "ModelInfo") -> tuple[str, str]:
        """Publish on top of `head`; returns where to look, and the commit."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        self.removed = self._stale(head)
        self.sent = True
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            commit = self.api.create_commit(
                self.repo,
                [
                    *(CommitOperationAdd(file.name, file.content or file.path) for file in self.content.files),
                    *(CommitOperationDelete(name) for name in self.removed),
                ],
                commit_message=f"Upload {self.content.title}",
                revision=self.branch,
                create_pr=self.create_pr,
                parent_commit=head.sha,
            )
        for caution in caught:
            if issubclass(caution.category, UserWarning):  # the Hub's, about the card
                warn(" ".join(str(caution.message).split()))
        return commit.pr_url or self._url(), commit.oid

    def _explain(self, error: BaseException, wait: float | None) -> str:
        """One line for people."""
        from huggingface_hub import errors as hf

        if not isinstance(error, hf.HfHubHTTPError):
            if wait is None:
                return f"{self.repo} could not be uploaded: {error}"
            return f"the connection to the Hub failed ({error}); check it and upload again"
        status = error.response.status_code
        reason = " ".join((error.server_message or "").split())
        reason = f" (the Hub says: {reason})" if reason else ""
        if status == 401:
            return f"the Hub does not accept the token{reason}; log in with: hf auth login"
        if status == 403:
            hint = "" if self.create_pr else ", or use --create-pr"
            return f"the token may not write to {self.repo}{reason}; it needs write access there{hint}"
        if isinstance(error, hf.RevisionNotFoundError):
            return f"{self.repo} has no branch {self.branch!r}"
        if status == 404:
            return f"{self.repo} is not on the Hub, or the token may not see it{reason}"
        if status in (409, LOOK_AGAIN):
            return f"{self.repo} is being changed by somebody else{reason}; upload again later"
        if status == 429:
            after = f" in {wait:.0f} seconds" if wait else " later"
            return f"the Hub has had too many requests{reason}; upload again{after}"
        if status >= 500:
            return f"the Hub fails with status {status}{reason}; upload again later, nothing will be published twice"
        return f"the Hub refuses the upload to {self.repo} with status {status}{reason}"


def _cause(error: BaseException) -> BaseException:
    """What the Hub or the network did, under what the client made of it."""
    while type(error) is RuntimeError and error.__cause__ is not None:
        error = error.__cause__
    return error


def _wait(error: BaseException, attempt: int) -> float | None:
    """How many seconds to wait before the next attempt; None if there is no hope."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

    backoff = float(2 ** (attempt - 1))
    if isinstance(error, HfHubHTTPError):
        if error.response.status_code not in RETRIED:
            return None
        asked = error.response.headers.get("Retry-After", "").strip()
        if asked.isdigit():
            return float(asked)
        if date := email.utils.parsedate_tz(asked):
            return max(0.0, email.utils.mktime_tz(date) - time.time())
        limit = re.search(r";\s*t=(\d+)", error.response.headers.get("RateLimit", ""))
        return float(limit[1]) if limit and error.response.status_code == 429 else backoff
    # A connection that was cut, or an answer that was.
    hopeful = (HTTPError, ConnectionError, TimeoutError, json.JSONDecodeError)
    return backoff if isinstance(error, hopeful) and not isinstance(error, OfflineModeIsEnabled) else None
