"""git, as far as the series needs it: a clean checkout in, a branch for each pull request out."""

import os
import shutil
import subprocess
from pathlib import Path

from .tree import UpstreamError

NOBODY = {"user.name": "mlx-speech-zoo", "user.email": "upstream@mlx-speech-zoo.invalid"}  # where git knows no author
IMPORT = "chore: import the source distribution"


def git(folder: Path, *arguments: str, check: bool = True) -> str:
    """Run git in a folder; its output.

    Raises:
        UpstreamError: git failed, or is not installed.
    """
    # A source distribution keeps its author's user id when root unpacks it.
    settings = {"commit.gpgsign": "false", "core.autocrlf": "false", "safe.directory": str(folder.resolve())}
    if "commit" in arguments:
        settings |= {key: value for key, value in NOBODY.items() if not git(folder, "config", key, check=False)}
    command = ["git", "-C", str(folder), *(part for key in settings for part in ("-c", f"{key}={settings[key]}"))]
    try:
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise UpstreamError(f"git cannot be run: {error}") from error
    if check and done.returncode:
        raise UpstreamError(f"git {arguments[0]} failed in {folder}: {' '.join(done.stderr.split())}")
    return done.stdout.strip()


def work_copy(path: Path, folder: Path) -> str:
    """A clone of `path` in `folder`, and the commit that it stands on.

    A tree that is no checkout becomes one, with its files as the first commit.

    Raises:
        UpstreamError: `path` is no source tree of mlx-audio, or has changes.
    """
    if not (path / "mlx_audio" / "__init__.py").is_file() or not (path / "pyproject.toml").is_file():
        raise UpstreamError(f"{path} is no source tree of mlx-audio: it has no mlx_audio/ and pyproject.toml")
    if not (path / ".git").exists():
        git(path, "init", "--quiet", "--initial-branch=main")
        (path / ".git" / "info").mkdir(exist_ok=True)
        (path / ".git" / "info" / "exclude").write_text("__pycache__/\n.pytest_cache/\n", encoding="utf-8")
        git(path, "add", "--all", "--force", "--", ".", ":!**/__pycache__/**")
        git(path, "commit", "--quiet", "--no-verify", "-m", IMPORT)
    if dirty := git(path, "status", "--porcelain"):
        raise UpstreamError(f"{path} has changes that are not committed: {dirty.splitlines()[0].strip()}, …")
    shutil.rmtree(folder, ignore_errors=True)
    git(path, "clone", "--quiet", "--no-hardlinks", ".", str(folder))
    for key in NOBODY:  # a clone does not take the checkout's own settings along
        if value := git(path, "config", key, check=False):
            git(folder, "config", key, value)
    return git(folder, "rev-parse", "HEAD")


def commit(folder: Path, message: str, paths: list[str]) -> None:
    """Commit files on the branch that a work copy stands on."""
    git(folder, "add", "--force", "--", *paths)
    git(folder, "commit", "--quiet", "--no-verify", "-m", message)


def refuse_branch(path: Path, branch: str) -> None:
    """Raises UpstreamError where `path` has the branch: somebody may have edited it."""
    if (path / ".git").exists() and git(path, "branch", "--list", branch):
        raise UpstreamError(f"{path} has a branch {branch} already; delete it: git branch -D {branch}")


def deliver(folder: Path, branch: str, path: Path) -> None:
    """Bring a branch of a work copy into `path`."""
    git(path, "fetch", "--quiet", "--no-tags", os.fspath(folder), f"{branch}:{branch}")
