"""What both sides of the Hub on loopback speak: requests, answers, and the usual refusals."""

import json
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from loopback_repos import Account, Repo

if TYPE_CHECKING:
    from loopback_hub import LoopbackHub

Answer = tuple[int, dict[str, str], bytes]  # status, headers, body


@dataclass(frozen=True)
class Request:
    """What was asked.

    Attributes:
        parts: of the path.
        account: whose token was shown; None without one.
    """

    method: str
    parts: list[str]
    query: dict[str, str]
    body: bytes
    account: Account | None

    @cached_property
    def json(self) -> Any:
        return json.loads(self.body)


def reply(data: object) -> Answer:
    return HTTPStatus.OK, {"Content-Type": "application/json"}, json.dumps(data).encode()


def refusal(status: int, message: str, code: str | None = None) -> Answer:
    """An error as the Hub gives it."""
    headers = {"X-Error-Message": message, "Content-Type": "application/json"}
    if code is not None:
        headers["X-Error-Code"] = code
    return status, headers, json.dumps({"error": message}).encode()


def visible(hub: "LoopbackHub", request: Request, repo: str) -> Repo | None:
    """The repo, if it is there and the account may see it."""
    stored = hub.repos.get(repo)
    if stored is None or not stored.private:
        return stored
    return stored if request.account and request.account.belongs_to(repo) else None


def no_repo(hub: "LoopbackHub", request: Request) -> Answer:
    status = HTTPStatus.NOT_FOUND if request.account else hub.anonymous_status
    return refusal(status, "Repository not found", "RepoNotFound")


def no_revision(revision: str) -> Answer:
    return refusal(HTTPStatus.NOT_FOUND, f"Invalid rev id: {revision}", "RevisionNotFound")
