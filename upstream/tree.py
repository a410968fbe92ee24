"""A source tree that is edited in memory: anchors are checked first, nothing is written."""

import ast
from dataclasses import dataclass, field
from pathlib import Path

KNOWN_VERSION = "0.6.2"  # of mlx-audio, whose source has every anchor


class UpstreamError(Exception):
    """Why the export stopped, in one line."""


class AnchorError(UpstreamError):
    """The source is not as the edits expect it."""


@dataclass(frozen=True)
class Commit:
    """One commit: its message, the new text of each file, and the tests that it makes pass.

    Attributes:
        message: for a human to edit.
        files: path in the tree to text.
        proof: a test file of the commit that fails without the rest of it; None where there is nothing to compare with.
    """

    message: str
    files: dict[str, str]
    proof: str | None = None


@dataclass
class Tree:
    """Files under `root`, with the changes of earlier commits and of the one that is being made.

    Attributes:
        root: the folder that holds `mlx_audio/` and `pyproject.toml`.
        tidy: whether new Python files are formatted as mlx-audio's are.
        commits: what was committed so far.
    """

    root: Path
    tidy: bool = True
    commits: list[Commit] = field(default_factory=list)
    _done: dict[str, str] = field(default_factory=dict)
    _open: dict[str, str] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """mlx-audio's version, as `mlx_audio/version.py` states it."""
        for node in ast.walk(ast.parse(self.read("mlx_audio/version.py"))):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                return str(node.value.value)
        raise AnchorError("mlx_audio/version.py states no version")

    def has(self, path: str) -> bool:
        return path in self._open or path in self._done or (self.root / path).exists()

    def read(self, path: str) -> str:
        """Text of a file, with all changes so far.

        Raises:
            AnchorError: there is no such file.
        """
        for texts in (self._open, self._done):
            if path in texts:
                return texts[path]
        try:
            return (self.root / path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise AnchorError(f"{path} cannot be read, which an edit expects: {error}") from error

    def create(self, path: str, text: str) -> None:
        """Add a file; a Python file is brought into mlx-audio's format.

        Raises:
            AnchorError: mlx-audio has a file of that name.
        """
        if self.has(path):
            raise AnchorError(f"{path} is there already; an edit wants to create it")
        self._open[path] = tidied(text, path) if self.tidy and path.endswith(".py") else text

    def replace(self, path: str, anchor: str, new: str, within: str | None = None) -> None:
        """Put `new` in the place of `anchor`, which must stand exactly once.

        Args:
            within: the function or class ("name" or "Class.method") in which to look, instead of the whole file.

        Raises:
            AnchorError: names the file and the anchor.
        """
        text = self.read(path)
        start, end = self._span(path, text, within) if within else (0, len(text))
        count = text.count(anchor, start, end)
        if count != 1:
            where = f"{within} of {path}" if within else path
            stands = "is missing" if count == 0 else f"stands {count} times"
            raise AnchorError(f"{where}: the anchor {anchor!r} {stands} (anchors are those of {KNOWN_VERSION})")
        at = text.index(anchor, start, end)
        self._open[path] = text[:at] + new + text[at + len(anchor) :]

    def after(self, path: str, anchor: str, new: str, within: str | None = None) -> None:
        """Put `new` behind the anchor; as `replace`."""
        self.replace(path, anchor, anchor + new, within)

    def before(self, path: str, anchor: str, new: str, within: str | None = None) -> None:
        """Put `new` in front of the anchor; as `replace`."""
        self.replace(path, anchor, new + anchor, within)

    def after_function(self, path: str, name: str, new: str) -> None:
        """Put `new` behind the whole of a function or class; as `replace`."""
        text = self.read(path)
        _, end = self._span(path, text, name)
        self._open[path] = text[:end] + new + text[end:]

    def append(self, path: str, new: str) -> None:
        """Put `new` at the end of a file."""
        self._open[path] = self.read(path).rstrip("\n") + "\n" + new

    def commit(self, message: str, proof: str | None = None) -> None:
        """Close the changes since the last commit.

        Raises:
            AnchorError: an edit left a file that is no Python.
        """
        for path, text in self._open.items():
            if path.endswith(".py"):
                try:
                    ast.parse(text)
                except SyntaxError as error:
                    raise AnchorError(f"{path} is no Python after the edits: {error}") from error
        self.commits.append(Commit(message, dict(self._open), proof))
        self._done.update(self._open)
        self._open.clear()

    @staticmethod
    def _span(path: str, text: str, name: str) -> tuple[int, int]:
        """Offsets of the first and behind the last character of a function or class, its last line break included."""
        try:
            body: list[ast.stmt] = ast.parse(text).body
        except SyntaxError as error:
            raise AnchorError(f"{path} is no Python: {error}") from error
        found: ast.stmt | None = None
        for part in name.split("."):
            kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            found = next((node for node in body if isinstance(node, kinds) and node.name == part), None)
            if found is None:
                raise AnchorError(f"{path}: the anchor {name} is missing (anchors are those of {KNOWN_VERSION})")
            body = found.body  # type: ignore[attr-defined]
        lines = text.splitlines(keepends=True)
        assert found is not None and found.end_lineno is not None
        return sum(map(len, lines[: found.lineno - 1])), sum(map(len, lines[: found.end_lineno]))


def tidied(text: str, path: str) -> str:
    """A Python file in the format that mlx-audio's pyproject.toml asks for.

    Raises:
        UpstreamError: black or isort is not installed.
    """
    try:
        import black
        import isort
    except ImportError as error:
        raise UpstreamError(
            f"{path} cannot be brought into mlx-audio's format: install black and isort (nox -s upstream does)"
        ) from error
    ordered = isort.code(text, profile="black", known_first_party=["mlx_audio"])
    return black.format_str(ordered, mode=black.Mode(line_length=88))
