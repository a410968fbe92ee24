"""git, as far as the series needs it."""

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
    settings = {"commit.gpgsign": "false", "core.autocrlf": "false", "safe.directory": "*"}
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


def add_work_tree(path: Path, folder: Path) -> None:
    """A work tree of the commit that `path` stands on; a tree that is no checkout becomes one, of its files.

    Raises:
        UpstreamError: `path` is no source tree of mlx-audio.
    """
    if not (path / "mlx_audio" / "__init__.py").is_file() or not (path / "pyproject.toml").is_file():
        raise UpstreamError(f"{path} is no source tree of mlx-audio: it has no mlx_audio/ and pyproject.toml")
    if not (path / ".git").exists():
        git(path, "init", "--quiet", "--initial-branch=main")
        git(path, "add", "--all", "--force", "--", ".", ":!**/__pycache__/**")
        git(path, "commit", "--quiet", "--no-verify", "-m", IMPORT)
    git(path, "worktree", "add", "--quiet", "--detach", str(folder))


def commit(folder: Path, message: str) -> None:
    """Commit all that changed."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--no-verify", "-m", message)


def clean(folder: Path, start: str = "HEAD") -> None:
    """Stand on a commit, with nothing else."""
    git(folder, "switch", "--quiet", "--detach", "--discard-changes", start)
    git(folder, "clean", "--quiet", "-fd")
