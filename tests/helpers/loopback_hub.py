"""A small Hugging Face Hub on 127.0.0.1, so that tests run the real `huggingface_hub` client without a network.

Served, as far as the client asks for it when it downloads; `loopback_uploads.py` has what it asks for when it uploads:

    GET       /api/models/ORG/NAME[/revision/REVISION]      facts, commit and files
    GET       /api/models/ORG/NAME/tree/REVISION            names, sizes and hashes of the files
    HEAD, GET /ORG/NAME/resolve/REVISION/FILE               the files

REVISION is a branch, a pull request or a commit. Use:

    with LoopbackHub() as hub:
        hub.add("org/model", {"config.json": b"…"})
        subprocess.run(…, env=os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": …})
        hub.downloads()
"""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import loopback_uploads
from loopback_http import Answer, Request, no_repo, no_revision, refusal, reply, visible
from loopback_repos import Account, Commit, Repo, git_hash

TOKEN = "hf_tester"


@dataclass(frozen=True)
class Fault:
    """What goes wrong, once, with the next request that it is for.

    Attributes:
        request: found in "METHOD path", a regular expression.
        status: answered instead of doing what was asked.
        headers, body: of that answer.
        cut: the connection ends in the middle of the request's body ("body"), or after what was asked has been done
            but before the answer ("answer").
        meanwhile: is done before what was asked.
    """

    request: str
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    cut: Literal["body", "answer"] | None = None
    meanwhile: Callable[[], object] = lambda: None


class LoopbackHub:
    """The server; a context manager.

    Attributes:
        url: what HF_ENDPOINT must be.
        repos: by name, `org/name`.
        objects: the large files that were uploaded, by SHA-256.
        accounts: by token; whoever shows another token is refused.
        gated: repos whose facts everybody sees and whose files nobody gets.
        broken: whether every request is answered with status 500.
        anonymous_status: what a request for an unknown repo gets; the real Hub says 401 to people who are not logged
            in, as the repo may be private, and 404 to others.
        faults: what will go wrong, in this order.
        spoilt: names of files that are stored with a byte too many when they are uploaded.
        requests: every request, "METHOD path", in the order of arrival.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.accounts = {TOKEN: Account()}
        self.gated: set[str] = set()
        self.broken = False
        self.anonymous_status = HTTPStatus.NOT_FOUND
        self.faults: list[Fault] = []
        self.spoilt: set[str] = set()
        self.requests: list[str] = []
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.hub = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the port: from now on the client cannot connect."""
        self._server.shutdown()
        self._server.server_close()

    def add(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Put files into a branch of a repo; returns its commit."""
        return self.repos.setdefault(repo, Repo()).commit(branch, "Add files", files).oid

    def commit(self, repo: str, branch: str = "main") -> str:
        """The commit that a branch is at."""
        return self.repos[repo].refs[branch].oid

    def downloads(self) -> set[str]:
        """The names of the files whose content was asked for."""
        return {request.split("/resolve/")[1].split("/", 1)[1] for request in self.requests if "/resolve/" in request}

    def fail(self, request: str, *statuses: int, retry_after: str | None = None) -> None:
        """Answer the next requests that match with these statuses, one each."""
        headers = () if retry_after is None else (("Retry-After", retry_after),)
        self.faults += [Fault(request, status, headers) for status in statuses]

    def cut(self, request: str, where: Literal["body", "answer"]) -> None:
        """End the connection of the next request that matches."""
        self.faults.append(Fault(request, cut=where))

    def meet(self, request: str, meanwhile: Callable[[], object]) -> None:
        """Do something before the next request that matches is answered."""
        self.faults.append(Fault(request, meanwhile=meanwhile))

    def next_fault(self, request: str) -> Fault:
        """What goes wrong with this request."""
        with self.lock:
            fault = next((fault for fault in self.faults if re.search(fault.request, request)), None)
            if fault is not None:
                self.faults.remove(fault)
        return fault or Fault(request)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two packets: it would wait 40 ms between them

    def do_GET(self) -> None:
        """Answer; the other methods do so too."""
        hub: LoopbackHub = self.server.hub  # type: ignore[attr-defined]
        url = urlsplit(self.path)
        line = f"{self.command} {unquote(url.path)}"
        hub.requests.append(line)
        fault = hub.next_fault(line)
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length // 2 if fault.cut == "body" else length)
        if fault.cut == "body":
            self._hang_up()
            return
        fault.meanwhile()
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if fault.status is not None:
            answer: Answer = fault.status, dict(fault.headers), fault.body
        elif hub.broken:
            answer = HTTPStatus.INTERNAL_SERVER_ERROR, {}, b""
        else:
            answer = self._ask(hub, parts, dict(parse_qsl(url.query)), body)
        if fault.cut == "answer":
            self._hang_up()
        else:
            self._send(*answer)

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the tests read `LoopbackHub.requests`."""

    def _ask(self, hub: LoopbackHub, parts: list[str], query: dict[str, str], body: bytes) -> Answer:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in hub.accounts:
            return refusal(HTTPStatus.UNAUTHORIZED, "Invalid credentials in Authorization header")
        request = Request(self.command, parts, query, body, hub.accounts.get(token))
        with hub.lock:
            return loopback_uploads.respond(hub, request) or _respond(hub, request)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _hang_up(self) -> None:
        self.connection.close()
        self.close_connection = True


def _respond(hub: LoopbackHub, request: Request) -> Answer:
    match request.parts:
        case ["api", "models", org, name, *rest]:
            kind, revision, file = (rest[0], "/".join(rest[1:]), "") if rest else ("revision", "main", "")
        case [org, name, "resolve" as kind, revision, *parts]:
            file = "/".join(parts)
        case _:
            return HTTPStatus.NOT_FOUND, {}, b""
    repo = f"{org}/{name}"
    stored = visible(hub, request, repo)
    if stored is None:
        return no_repo(hub, request)
    commit = stored.find(revision)
    if commit is None:
        return no_revision(revision)
    if kind == "revision":
        return reply(_facts(repo, stored, commit, repo in hub.gated, "blobs" in request.query))
    if kind == "tree":
        return reply(commit.facts())
    if repo in hub.gated:
        return refusal(HTTPStatus.UNAUTHORIZED, "Access to the model is restricted", "GatedRepo")
    if file not in commit.files:
        status, headers, body = refusal(HTTPStatus.NOT_FOUND, "Entry not found", "EntryNotFound")
        return status, headers | {"X-Repo-Commit": commit.oid}, body
    content = commit.files[file]
    return HTTPStatus.OK, {"ETag": f'"{git_hash(content)}"', "X-Repo-Commit": commit.oid}, content


def _facts(repo: str, stored: Repo, commit: Commit, gated: bool, blobs: bool) -> dict[str, object]:
    return {
        "id": repo,
        "sha": commit.oid,
        "private": stored.private,
        "gated": "manual" if gated else False,
        "tags": [],
        "siblings": [
            {"rfilename": file["path"]}
            | ({"size": file["size"], "blobId": file["oid"], "lfs": file.get("lfs")} if blobs else {})
            for file in commit.facts()
        ],
    }
