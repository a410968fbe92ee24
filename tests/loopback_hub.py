"""A small Hugging Face Hub on 127.0.0.1, so that tests run the real `huggingface_hub` client without a network.

The repos are folders on disk: `root/ORG/NAME/BRANCH/files…`. A branch's commit is the hash of its content, so a file
that is added or changed makes a new commit. Served, as far as the client asks for it when it downloads:

    GET       /api/models/ORG/NAME[/revision/REVISION]      facts, commit and file names
    GET       /api/models/ORG/NAME/tree/REVISION            names, sizes and hashes of the files
    HEAD, GET /ORG/NAME/resolve/REVISION/FILE               the files

REVISION is a branch or a commit. Use:

    with LoopbackHub(tmp_path / "hub") as hub:
        hub.add("org/model", {"config.json": b"…"})
        subprocess.run(…, env=os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": …})
        hub.downloads()
"""

import hashlib
import json
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit


class LoopbackHub:
    """The server; a context manager.

    Attributes:
        url: what HF_ENDPOINT must be.
        gated: repos whose facts everybody sees and whose files nobody gets.
        broken: whether every request is answered with status 500.
        anonymous_status: what a request for an unknown repo gets; the real Hub says 401 to people who are not logged
            in, as the repo may be private, and 404 to others.
        requests: every request, "METHOD path", in the order of arrival.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.gated: set[str] = set()
        self.broken = False
        self.anonymous_status = HTTPStatus.NOT_FOUND
        self.requests: list[str] = []
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
        for name, content in files.items():
            path = self.root / repo / branch / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return self.commit(repo, branch)

    def commit(self, repo: str, branch: str = "main") -> str:
        """The commit that a branch is at."""
        return _commit(self.root / repo / branch)

    def downloads(self) -> set[str]:
        """The names of the files whose content was asked for."""
        return {request.split("/resolve/")[1].split("/", 1)[1] for request in self.requests if "/resolve/" in request}

    def find(self, repo: str, revision: str) -> Path | None:
        """The folder of a branch or commit."""
        branches = [folder for folder in (self.root / repo).iterdir() if folder.is_dir()]
        return next((folder for folder in branches if revision in (folder.name, _commit(folder))), None)


def _files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _hash(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _commit(folder: Path) -> str:
    return _hash(json.dumps({name: _hash(path.read_bytes()) for name, path in _files(folder).items()}).encode())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with the content."""
        self._answer(send_body=True)

    def do_HEAD(self) -> None:
        """Answer with the headers that the content would have."""
        self._answer(send_body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the tests read `LoopbackHub.requests`."""

    def _answer(self, send_body: bool) -> None:
        status, headers, body = self._respond()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if send_body:
            self.wfile.write(body)

    def _respond(self) -> tuple[HTTPStatus, dict[str, str], bytes]:
        hub: LoopbackHub = self.server.hub  # type: ignore[attr-defined]
        path = urlsplit(self.path).path
        hub.requests.append(f"{self.command} {unquote(path)}")
        if hub.broken:
            return HTTPStatus.INTERNAL_SERVER_ERROR, {}, b""
        match [unquote(part) for part in path.strip("/").split("/")]:
            case ["api", "models", org, name, *rest]:
                kind, revision, file = (rest[0], "/".join(rest[1:]), "") if rest else ("revision", "main", "")
            case [org, name, "resolve" as kind, revision, *parts]:
                file = "/".join(parts)
            case _:
                return HTTPStatus.NOT_FOUND, {}, b""
        repo = f"{org}/{name}"
        if not (hub.root / repo).is_dir():
            return hub.anonymous_status, {"X-Error-Code": "RepoNotFound"}, b""
        folder = hub.find(repo, revision)
        if folder is None:
            return HTTPStatus.NOT_FOUND, {"X-Error-Code": "RevisionNotFound"}, b""
        if kind == "revision":
            return _json(_facts(repo, folder, repo in hub.gated))
        if kind == "tree":
            return _json(_tree(folder))
        if repo in hub.gated:
            return HTTPStatus.UNAUTHORIZED, {"X-Error-Code": "GatedRepo"}, b""
        if file not in _files(folder):
            return HTTPStatus.NOT_FOUND, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": _commit(folder)}, b""
        content = (folder / file).read_bytes()
        return HTTPStatus.OK, {"ETag": f'"{_hash(content)}"', "X-Repo-Commit": _commit(folder)}, content


def _json(data: object) -> tuple[HTTPStatus, dict[str, str], bytes]:
    return HTTPStatus.OK, {"Content-Type": "application/json"}, json.dumps(data).encode()


def _facts(repo: str, folder: Path, gated: bool) -> dict[str, object]:
    return {
        "id": repo,
        "sha": _commit(folder),
        "private": False,
        "gated": "manual" if gated else False,
        "tags": [],
        "siblings": [{"rfilename": name} for name in _files(folder)],
    }


def _tree(folder: Path) -> list[dict[str, object]]:
    return [
        {"type": "file", "path": name, "size": path.stat().st_size, "oid": _hash(path.read_bytes())}
        for name, path in _files(folder).items()
    ]
