"""What the Hub on loopback stores: repos with their history, pull requests, and who may write where."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field

LARGE = (".safetensors", ".bin", ".pt", ".ckpt", ".onnx", ".npz")  # what .gitattributes gives to LFS on the real Hub
BRANCHES = "refs/heads/"


def git_hash(content: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Account:
    """Whose a token is.

    Attributes:
        orgs: where the account may write besides its own name.
        may_write: whether the token may write at all.
    """

    name: str = "tester"
    orgs: tuple[str, ...] = ("org",)
    may_write: bool = True

    def belongs_to(self, repo: str) -> bool:
        return repo.split("/", maxsplit=1)[0] in (self.name, *self.orgs)

    def may_write_to(self, repo: str) -> bool:
        return self.may_write and self.belongs_to(repo)


@dataclass(frozen=True)
class Commit:
    """A state of a branch, and how it came about."""

    files: dict[str, bytes]
    title: str
    parent: "Commit | None" = None

    @property
    def oid(self) -> str:
        content = [self.parent.oid if self.parent else "", self.title]
        content += [f"{name} {git_hash(data)}" for name, data in sorted(self.files.items())]
        return hashlib.sha1("\n".join(content).encode()).hexdigest()

    def facts(self) -> list[dict[str, object]]:
        """Every file as the tree shows it."""
        return [file_facts(name, content) for name, content in sorted(self.files.items())]

    def history(self) -> list["Commit"]:
        """This commit and those before it, the newest first."""
        return [self, *(self.parent.history() if self.parent else [])]


def file_facts(name: str, content: bytes) -> dict[str, object]:
    """Size and hashes of a file; a large one stands in git as a pointer."""
    facts: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": git_hash(content)}
    if name.endswith(LARGE):
        sha256 = hashlib.sha256(content).hexdigest()
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n"
        facts["oid"] = git_hash(text.encode())
        facts["lfs"] = {"oid": sha256, "sha256": sha256, "size": len(content), "pointerSize": len(text)}
    return facts


@dataclass
class PullRequest:
    """A pull request; its files are at `refs/pr/NUM`."""

    num: int
    title: str
    author: str
    base: str
    status: str = "open"


@dataclass
class Repo:
    """A model repo.

    Attributes:
        refs: the newest commit of each branch ("main") and pull request ("refs/pr/1").
    """

    private: bool = False
    refs: dict[str, Commit] = field(default_factory=dict)
    pull_requests: list[PullRequest] = field(default_factory=list)

    def find(self, revision: str) -> Commit | None:
        """The commit that a branch, a pull request or a hash names."""
        if revision in self.refs:
            return self.refs[revision]
        every = (commit for head in self.refs.values() for commit in head.history())
        return next((commit for commit in every if commit.oid == revision), None)

    def commit(self, ref: str, title: str, add: dict[str, bytes], delete: Collection[str] = ()) -> Commit:
        """Put a commit on top of a ref, which is made if there is none."""
        head = self.refs.get(ref)
        kept = {name: content for name, content in (head.files if head else {}).items() if name not in delete}
        self.refs[ref] = Commit(kept | add, title, head)
        return self.refs[ref]

    def open_pull_request(self, title: str, author: str, base: str, parent: Commit) -> PullRequest:
        """A pull request from a commit; its own commit is put on top later."""
        pull_request = PullRequest(len(self.pull_requests) + 1, title, author, base)
        self.pull_requests.append(pull_request)
        self.refs[f"refs/pr/{pull_request.num}"] = parent
        return pull_request
