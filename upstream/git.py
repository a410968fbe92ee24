"""git, as far as the export needs it: a clean checkout in, a branch of commits out."""

import os
import shutil
import subprocess
from pathlib import Path

from .tree import Commit, UpstreamError

IDENTITY = {"NAME": "mlx-speech-zoo export", "EMAIL": "export@mlx-speech-zoo.invalid"}  # where git knows no author
IMPORT = "chore: import the source distribution"


def git(folder: Path, *arguments: str, check: bool = True) -> str:
    """Run git in a folder; its output.

    Raises:
        UpstreamError: git failed, or is not installed.
    """
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    for part, value in IDENTITY.items() if "commit" in arguments else ():
        known = subprocess.run(
            ["git", "-C", str(folder), "config", f"user.{part.lower()}"], capture_output=True, text=True, check=False
        )
        if not known.stdout.strip():
            environment |= {f"GIT_{who}_{part}": os.environ.get(f"GIT_{who}_{part}", value) for who in ROLES}
    settings = ["commit.gpgsign=false", "core.autocrlf=false"]
    settings.append(
        f"safe.directory={folder.resolve()}"
    )  # root unpacks a source distribution with its author's user id
    command = ["git", "-C", str(folder), *(part for it in settings for part in ("-c", it)), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    except OSError as error:
        raise UpstreamError(f"git cannot be run: {error}") from error
    if check and done.returncode:
        raise UpstreamError(f"git {arguments[0]} failed in {folder}: {' '.join(done.stderr.split())}")
    return done.stdout.strip()


ROLES = ("AUTHOR", "COMMITTER")


def is_checkout(path: Path) -> bool:
    """Whether `path` is the top of a working tree of its own."""
    return (path / ".git").exists()


def refuse_unfit(path: Path, branch: str) -> None:
    """Raises UpstreamError unless `path` is a clean checkout without that branch, or no checkout at all."""
    if not (path / "mlx_audio" / "__init__.py").is_file() or not (path / "pyproject.toml").is_file():
        raise UpstreamError(f"{path} is no source tree of mlx-audio: it has no mlx_audio/ and pyproject.toml")
    if is_checkout(path):
        if dirty := git(path, "status", "--porcelain"):
            raise UpstreamError(f"{path} has changes that are not committed: {dirty.splitlines()[0].strip()}, …")
        if git(path, "branch", "--list", branch):
            raise UpstreamError(f"{path} has a branch {branch} already; delete it, or name another with --branch")


def work_copy(path: Path, folder: Path) -> None:
    """A clone of `path` in `folder`; a tree that is no checkout becomes one, with its files as the first commit."""
    if is_checkout(path):
        git(path, "clone", "--quiet", "--no-hardlinks", ".", str(folder))
        for part in IDENTITY:  # a clone does not take the checkout's own settings along
            if value := git(path, "config", f"user.{part.lower()}", check=False):
                git(folder, "config", f"user.{part.lower()}", value)
        return
    shutil.copytree(path, folder, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".pytest_cache"))
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--no-verify", "-m", IMPORT)


def apply(folder: Path, branch: str, commits: list[Commit]) -> list[str]:
    """Make the commits on a new branch of a work copy; their hashes."""
    git(folder, "switch", "--quiet", "--create", branch)
    hashes = []
    for commit in commits:
        for name, text in commit.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
        git(folder, "add", "--force", "--", *commit.files)
        git(folder, "commit", "--quiet", "--no-verify", "-m", commit.message)
        hashes.append(git(folder, "rev-parse", "HEAD"))
    return hashes


def deliver(folder: Path, branch: str, path: Path) -> None:
    """Bring the branch of a work copy into `path` and switch to it."""
    if not is_checkout(path):
        git(path, "init", "--quiet", "--initial-branch=main")
        (path / ".git" / "info").mkdir(exist_ok=True)
        (path / ".git" / "info" / "exclude").write_text("__pycache__/\n.pytest_cache/\n", encoding="utf-8")
        git(path, "fetch", "--quiet", str(folder), "main:imported")
        git(path, "update-ref", "refs/heads/main", "imported")
        git(path, "branch", "--quiet", "-D", "imported")
        git(path, "reset", "--quiet")
    git(path, "fetch", "--quiet", str(folder), f"{branch}:{branch}")
    git(path, "switch", "--quiet", branch)
