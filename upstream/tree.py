"""A source tree of mlx-audio that is edited at short anchors, so that no source of mlx-audio is kept here."""

import ast
from dataclasses import dataclass
from pathlib import Path


class UpstreamError(Exception):
    """Why something cannot be done, in one line."""


class AnchorError(UpstreamError):
    """The source is not as an edit expects it."""


@dataclass(frozen=True)
class Tree:
    """The files under `root`."""

    root: Path

    def has(self, path: str) -> bool:
        return (self.root / path).is_file()

    def read(self, path: str) -> str:
        """Text of a file; AnchorError where there is none."""
        if not self.has(path):
            raise AnchorError(f"{path} is not there")
        return (self.root / path).read_text(encoding="utf-8")

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, encoding="utf-8", newline="\n")

    def rewrite(self, path: str, text: str) -> None:
        """Put `text` in the place of a whole file that is there."""
        self.read(path)
        self.write(path, text)

    def create_files(self, module: str) -> None:
        """Add what lies in `files/` beside a pull request's `__init__.py`; docs where the tree has docs."""
        files = Path(module).parent / "files"
        for file in sorted(path for path in files.rglob("*") if path.is_file() and path.suffix != ".pyc"):
            path = file.relative_to(files).as_posix()
            if self.has(path):
                raise AnchorError(f"{path} is there already")
            if not path.startswith("docs/") or self.has("mkdocs.yml"):
                self.write(path, file.read_text(encoding="utf-8"))

    def add_page(self, title: str, page: str) -> None:
        """Put a page into the navigation, where the tree has docs."""
        if self.has("mkdocs.yml"):
            self.after("mkdocs.yml", "Voice Activity Detection: models/vad/index.md\n", f"    - {title}: {page}\n")

    def replace(self, path: str, anchor: str, new: str, within: str | None = None, until: str | None = None) -> None:
        """Put `new` in the place of `anchor`, which stands exactly once in the file, or in `within` of it.

        Args:
            within: a function or class, as in "name" or "Class.method".
            until: another anchor; all from `anchor` to before it is replaced.

        Raises:
            AnchorError: names the file and the anchor.
        """
        text = self.read(path)
        start = _find(path, text, anchor, within)
        end = start + len(anchor) if until is None else _find(path, text, until, within)
        self.write(path, text[:start] + new + text[end:])

    def after(self, path: str, anchor: str, new: str, within: str | None = None) -> None:
        """Put `new` behind the anchor; as `replace`."""
        self.replace(path, anchor, anchor + new, within)

    def before(self, path: str, anchor: str, new: str, within: str | None = None) -> None:
        """Put `new` in front of the anchor; as `replace`."""
        self.replace(path, anchor, new + anchor, within)

    def add_tests(self, path: str, tests: str) -> None:
        """Put tests into a test file, or make it of them: methods at the end of their class if the file has it."""
        if not self.has(path):
            self.write(path, tests)
            return
        lines = tests.splitlines(keepends=True)
        for node in ast.parse(tests).body:
            text, main = self.read(path), '\n\nif __name__ == "__main__":'
            first = min(part.lineno for part in (node, *getattr(node, "decorator_list", ())))
            if isinstance(node, ast.ClassDef) and f"\nclass {node.name}(" in f"\n{text}":
                at, start = _span(path, text, node.name)[1], "\n"
                first = node.lineno + 1  # without its first line
            else:
                at, start = (text.index(main) if main in text else len(text)), "\n\n"
            self.write(path, text[:at] + start + "".join(lines[first - 1 : node.end_lineno]) + text[at:])


def _find(path: str, text: str, anchor: str, within: str | None) -> int:
    start, end = _span(path, text, within) if within else (0, len(text))
    count = text.count(anchor, start, end)
    if count != 1:
        raise AnchorError(f"{within or 'a line'} of {path}: {anchor.strip()!r} stands {count} times")
    return text.index(anchor, start, end)


def _span(path: str, text: str, name: str) -> tuple[int, int]:
    """Offsets of the first and behind the last character of a function or class, its last line break included."""
    node: ast.AST = ast.parse(text)
    for part in name.split("."):
        body = getattr(node, "body", [])
        if not (found := [item for item in body if getattr(item, "name", None) == part]):
            raise AnchorError(f"{path} has no {name}")
        node = found[0]
    assert isinstance(node, ast.stmt) and node.end_lineno is not None
    lines = text.splitlines(keepends=True)
    return sum(map(len, lines[: node.lineno - 1])), sum(map(len, lines[: node.end_lineno]))
