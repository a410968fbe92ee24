"""A source tree of mlx-audio that is edited in memory, at anchors."""

import ast
from dataclasses import dataclass, field
from pathlib import Path


class UpstreamError(Exception):
    """Why something cannot be done, in one line."""


class AnchorError(UpstreamError):
    """The source is not as an edit expects it."""


@dataclass
class Tree:
    """Files under `root` and the new text of those that were edited; nothing is written before `write`."""

    root: Path
    edited: dict[str, str] = field(default_factory=dict)

    def has(self, path: str) -> bool:
        return path in self.edited or (self.root / path).is_file()

    def read(self, path: str) -> str:
        """Text of a file, edits included; AnchorError where there is none."""
        if not self.has(path):
            raise AnchorError(f"{path} is not there")
        return self.edited[path] if path in self.edited else (self.root / path).read_text(encoding="utf-8")

    def create(self, path: str, text: str) -> None:
        """Add a file; AnchorError where the tree has one of that name."""
        if self.has(path):
            raise AnchorError(f"{path} is there already")
        self.edited[path] = text

    def create_files(self, module: str) -> None:
        """Add what lies in `files/` beside a pull request's `__init__.py`; docs where the tree has docs."""
        files = Path(module).parent / "files"
        for file in sorted(path for path in files.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
            path = file.relative_to(files).as_posix()
            if not path.startswith("docs/") or self.has("mkdocs.yml"):
                self.create(path, file.read_text(encoding="utf-8"))

    def add_page(self, title: str, page: str) -> None:
        """Put a page into the navigation, where the tree has docs."""
        if self.has("mkdocs.yml"):
            self.after("mkdocs.yml", "Voice Activity Detection: models/vad/index.md\n", f"    - {title}: {page}\n")

    def rewrite(self, path: str, text: str) -> None:
        """Put `text` in the place of a whole file that is there."""
        self.read(path)
        self.edited[path] = text

    def replace(self, path: str, anchor: str, new: str, within: str | None = None) -> None:
        """Put `new` in the place of `anchor`, which stands exactly once in the file, or in `within` of it.

        Args:
            within: a function or class, as in "name" or "Class.method".

        Raises:
            AnchorError: names the file and the anchor.
        """
        at = self._find(path, anchor, within)
        self._splice(path, at, at + len(anchor), new)

    def replace_from(self, path: str, start: str, end: str, new: str, within: str) -> None:
        """Put `new` in the place of all from the anchor `start` to before the anchor `end`; as `replace`."""
        self._splice(path, self._find(path, start, within), self._find(path, end, within), new)

    def after(self, path: str, anchor: str, new: str, within: str | None = None) -> None:
        """Put `new` behind the anchor; as `replace`."""
        self.replace(path, anchor, anchor + new, within)

    def before(self, path: str, anchor: str, new: str, within: str | None = None) -> None:
        """Put `new` in front of the anchor; as `replace`."""
        self.replace(path, anchor, new + anchor, within)

    def _find(self, path: str, anchor: str, within: str | None) -> int:
        text = self.read(path)
        start, end = _span(path, text, within) if within else (0, len(text))
        count = text.count(anchor, start, end)
        if count != 1:
            raise AnchorError(f"{within or 'a line'} of {path}: {anchor.strip()!r} stands {count} times")
        return text.index(anchor, start, end)

    def _splice(self, path: str, start: int, end: int, new: str) -> None:
        text = self.read(path)
        self.edited[path] = text[:start] + new + text[end:]

    def add_tests(self, path: str, text: str) -> None:
        """Put test classes at the end of a test file, or make it of them."""
        if not self.has(path):
            self.edited[path] = text
            return
        main = '\n\nif __name__ == "__main__":'
        head, separator, tail = self.read(path).rstrip("\n").partition(main)
        self.edited[path] = f"{head.rstrip()}\n\n\n{text.strip()}\n{f'{main}{tail}' + chr(10) if separator else ''}"

    def write(self, folder: Path) -> None:
        """Write the edited files; AnchorError where an edit left a file that is no Python."""
        for path, text in self.edited.items():
            if path.endswith(".py"):
                _parsed(path, text)
        for path, text in self.edited.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8", newline="\n")


def _parsed(path: str, text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise AnchorError(f"{path} is no Python: {error}") from error


def _span(path: str, text: str, name: str) -> tuple[int, int]:
    """Offsets of the first and behind the last character of a function or class, its last line break included."""
    body: list[ast.stmt] = _parsed(path, text).body
    node: ast.stmt | None = None
    for part in name.split("."):
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        node = next((item for item in body if isinstance(item, kinds) and item.name == part), None)
        if node is None:
            raise AnchorError(f"{path} has no {name}")
        body = node.body  # type: ignore[attr-defined]
    lines = text.splitlines(keepends=True)
    assert node is not None and node.end_lineno is not None
    return sum(map(len, lines[: node.lineno - 1])), sum(map(len, lines[: node.end_lineno]))
