"""The writing side of the Hub on loopback: accounts, repos, branches, large files, commits, pull requests.

GET  /api/whoami-v2                                 whose token it is
POST /api/validate-yaml                             the metadata of a README
POST /api/repos/create                              a repo, with the first commit that the real Hub makes
POST /api/models/ORG/NAME/branch/BRANCH             a branch
POST /api/models/ORG/NAME/preupload/REVISION        which files are large
POST /ORG/NAME.git/info/lfs/objects/batch           where large files go
PUT  /lfs/SHA256; POST /lfs/verify                  a large file
POST /api/models/ORG/NAME/commit/REVISION           a commit (NDJSON), or with create_pr=1 a pull request
GET  /api/models/ORG/NAME/discussions[/NUM]         pull requests
"""

import base64
import hashlib
import json
from http import HTTPStatus
from typing import TYPE_CHECKING

import yaml
from loopback_http import Answer, Request, no_repo, no_revision, refusal, reply, visible
from loopback_repos import BRANCHES, LARGE, Commit, PullRequest, Repo, file_facts

if TYPE_CHECKING:
    from loopback_hub import LoopbackHub

PAGE = 2  # pull requests in one answer: few, so that the client has to turn pages


def respond(hub: "LoopbackHub", request: Request) -> Answer | None:
    """The answer to what belongs to an upload; None for everything else."""
    match request.method, *request.parts:
        case "PUT", "lfs", sha256:  # the storage, which takes signed addresses instead of tokens
            if hashlib.sha256(request.body).hexdigest() != sha256:
                return refusal(HTTPStatus.BAD_REQUEST, "BadDigest")
            hub.objects[sha256] = request.body
            return HTTPStatus.OK, {}, b""
        case "POST", "lfs", "verify":
            return _verify(hub, request)
        case "GET", "api", "models", org, name, "discussions", *number:
            return _discussions(hub, request, f"{org}/{name}", *number)
        case ("GET", "api", "whoami-v2") | ("POST", *_) if request.account is None:
            return refusal(HTTPStatus.UNAUTHORIZED, "Invalid username or password.")
        case "GET", "api", "whoami-v2":
            return reply(
                {"type": "user", "name": request.account.name, "orgs": [{"name": org} for org in request.account.orgs]}
            )
        case "POST", "api", "validate-yaml":
            return _validate(request)
        case "POST", "api", "repos", "create":
            return _create(hub, request)
        case "POST", org, name, "info", "lfs", "objects", "batch":
            return _batch(hub, request, f"{org}/{name.removesuffix('.git')}")
        case "POST", "api", "models", org, name, "branch" | "preupload" | "commit" as action, revision:
            return _write(hub, request, f"{org}/{name}", action, revision)
    return None


def _validate(request: Request) -> Answer:
    metadata = request.json["content"].split("---")[1] if request.json["content"].startswith("---") else ""
    try:
        data = yaml.safe_load(metadata)
    except yaml.YAMLError as error:
        return HTTPStatus.BAD_REQUEST, {}, json.dumps({"errors": [{"message": str(error)}]}).encode()
    if not data:
        return reply({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    if not isinstance(data.get("tags", []), list):
        return HTTPStatus.BAD_REQUEST, {}, json.dumps({"errors": [{"message": '"tags" must be an array'}]}).encode()
    return reply({"errors": [], "warnings": []})


def _create(hub: "LoopbackHub", request: Request) -> Answer:
    assert request.account is not None
    namespace = request.json.get("organization") or request.account.name
    repo = f"{namespace}/{request.json['name']}"
    if not request.account.may_write_to(repo):
        return refusal(
            HTTPStatus.FORBIDDEN, f'You don\'t have the rights to create a model under the namespace "{namespace}"'
        )
    if repo in hub.repos:
        status, headers, _ = refusal(HTTPStatus.CONFLICT, "You already created this model repo")
        return status, headers, json.dumps({"error": headers["X-Error-Message"], "url": f"{hub.url}/{repo}"}).encode()
    private = request.json.get("visibility") == "private" or bool(request.json.get("private"))
    hub.repos[repo] = Repo(private)
    hub.repos[repo].commit("main", "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
    return reply({"url": f"{hub.url}/{repo}", "name": repo, "private": private})


def _batch(hub: "LoopbackHub", request: Request, repo: str) -> Answer:
    if visible(hub, request, repo) is None:
        return no_repo(hub, request)
    objects = []
    for item in request.json["objects"]:
        address = {
            "upload": {"href": f"{hub.url}/lfs/{item['oid']}"},
            "verify": {"href": f"{hub.url}/lfs/verify"},
        }
        objects.append(item if item["oid"] in hub.objects else item | {"actions": address})
    return reply({"transfer": "basic", "objects": objects})


def _verify(hub: "LoopbackHub", request: Request) -> Answer:
    content = hub.objects.get(request.json["oid"])
    if content is None or len(content) != request.json["size"]:
        return refusal(HTTPStatus.NOT_FOUND, "The object is not there")
    return reply({})


def _write(hub: "LoopbackHub", request: Request, repo: str, action: str, revision: str) -> Answer:
    stored = visible(hub, request, repo)
    if stored is None:
        return no_repo(hub, request)
    assert request.account is not None
    pull_request = "create_pr" in request.query
    if not pull_request and not request.account.may_write_to(repo):
        return refusal(HTTPStatus.FORBIDDEN, "You don't have write access to this repo")
    if action == "branch":
        if revision in stored.refs:
            return refusal(HTTPStatus.CONFLICT, "Reference already exists")
        stored.refs[revision] = stored.refs["main"]
        return reply({})
    head = stored.refs.get(revision)
    if head is None:
        return no_revision(revision)
    if action == "preupload":
        return reply({"files": [_upload_mode(file["path"], head) for file in request.json["files"]]})
    return _commit(hub, request, repo, revision, head)


def _upload_mode(name: str, head: Commit) -> dict[str, object]:
    facts = file_facts(name, head.files[name]) if name in head.files else {}
    lfs = facts.get("lfs")
    oid = lfs["sha256"] if isinstance(lfs, dict) else facts.get("oid")
    return {"path": name, "uploadMode": "lfs" if name.endswith(LARGE) else "regular", "shouldIgnore": False, "oid": oid}


def _commit(hub: "LoopbackHub", request: Request, repo: str, revision: str, head: Commit) -> Answer:
    header: dict[str, str] = {}
    add: dict[str, bytes] = {}
    delete = set()
    for line in request.body.splitlines():
        key, value = (item := json.loads(line))["key"], item["value"]
        if key == "header":
            header = value
        elif key == "file":
            add[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            if value["oid"] not in hub.objects:
                return refusal(HTTPStatus.BAD_REQUEST, "LFS pointer pointed to a file that does not exist")
            add[value["path"]] = hub.objects[value["oid"]]
        elif key == "deletedFile":
            if value["path"] not in head.files:
                return refusal(HTTPStatus.NOT_FOUND, "A file with this name doesn't exist", "EntryNotFound")
            delete.add(value["path"])
    if header.get("parentCommit", head.oid) != head.oid:
        return refusal(HTTPStatus.PRECONDITION_FAILED, "A commit has happened since. Please refresh and try again.")
    stored = hub.repos[repo]
    spoilt = {name: content + b"\n" for name, content in add.items() if name in hub.spoilt}
    ref, answer = revision, {}
    if "create_pr" in request.query:
        assert request.account is not None
        number = stored.open_pull_request(header["summary"], request.account.name, revision, head).num
        ref, answer = f"refs/pr/{number}", {"pullRequestUrl": f"{hub.url}/{repo}/discussions/{number}"}
    commit = stored.commit(ref, header["summary"], add | spoilt, delete)
    return reply(answer | {"commitOid": commit.oid, "commitUrl": f"{hub.url}/{repo}/commit/{commit.oid}"})


def _discussions(hub: "LoopbackHub", request: Request, repo: str, number: str | None = None) -> Answer:
    stored = visible(hub, request, repo)
    if stored is None:
        return no_repo(hub, request)
    if number is None:
        status = request.query.get("status", "all")
        wanted = [item for item in stored.pull_requests if status in ("all", item.status)]
        start = PAGE * int(request.query.get("p", 0))
        page = [_facts(item, repo) for item in wanted[start : start + PAGE]]
        return reply({"count": len(wanted), "start": start, "discussions": page})
    item = stored.pull_requests[int(number) - 1]
    details = {"changes": {"base": BRANCHES + item.base}, "filesWithConflicts": False, "events": [], "diff": ""}
    return reply(_facts(item, repo) | details)


def _facts(item: PullRequest, repo: str) -> dict[str, object]:
    return {
        "num": item.num,
        "title": item.title,
        "author": {"name": item.author},
        "status": item.status,
        "isPullRequest": True,
        "createdAt": "2026-01-01T00:00:00.000Z",
        "repo": {"name": repo, "type": "model"},
    }
