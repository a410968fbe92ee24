"""What a loss of power may leave of a folder: a layer over `os` records syncs and changes of names, and replays them.

A file's content outlives the power once it was synced; a name in a folder once the folder was, and earlier only by
luck. So each moment of a run has several states: no luck, all the luck, and luck with one folder.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Names = dict[int, dict[str, int]]  # folder to the entries in it, all by inode
CHANGES = ("fsync", "replace", "rename", "link", "unlink", "remove", "mkdir", "rmdir")


class Disk:
    """Records what happens below `root` from now on."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.contents: dict[int, bytes] = {}
        self.moments: list[tuple[str, Names, Names, dict[int, bytes]]] = []
        self.names = self._names()
        for path in root.rglob("*"):
            if path.is_file():
                self.contents[path.stat().st_ino] = path.read_bytes()
        for name in CHANGES:
            monkeypatch.setattr(os, name, self._recorded(name, getattr(os, name)))

    def _recorded(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*args: Any, **options: Any) -> Any:
            self._note(f"before {name}")
            result = call(*args, **options)
            if name == "fsync":
                self._sync(os.fstat(args[0]).st_ino)
            self._note(f"after {name}")
            return result

        return recorded

    def _sync(self, inode: int) -> None:
        current = self._names()
        if inode in current:
            self.names[inode] = current[inode]
            return
        for path in self.root.rglob("*"):
            if path.stat().st_ino == inode:
                self.contents[inode] = path.read_bytes()

    def _names(self) -> Names:
        folders = [self.root, *(path for path in self.root.rglob("*") if path.is_dir())]
        return {
            folder.stat().st_ino: {path.name: path.stat().st_ino for path in folder.iterdir()} for folder in folders
        }

    def _note(self, what: str) -> None:
        self.moments.append((what, dict(self.names), self._names(), dict(self.contents)))

    def crashes(self, scratch: Path) -> Iterator[tuple[str, Path]]:
        """Each state that a loss of power may leave, as a folder of its own, and when it was; equal ones once."""
        self._note("at the end")
        kinds = {
            ino: folder for _, old, new, _ in self.moments for names in (old, new) for ino, folder in names.items()
        }
        seen: set[frozenset[tuple[str, bytes | None]]] = set()
        for i, (what, synced, current, contents) in enumerate(self.moments):
            lucky = [{}, current, *({folder: current[folder]} for folder in current)]
            for luck in lucky:
                names = synced | luck
                files = dict(self._files(self.root.stat().st_ino, "", names, kinds, contents))
                state = frozenset(files.items())
                if state in seen:
                    continue
                seen.add(state)
                yield f"{what} ({i})", _write(scratch / str(len(seen)), files)

    def kept(self, scratch: Path) -> Path:
        """What is left of the end without any luck, as a folder: what was promised to be kept."""
        kinds = self.names | self._names()
        files = dict(self._files(self.root.stat().st_ino, "", self.names, kinds, self.contents))
        return _write(scratch / "kept", files)

    def _files(
        self, folder: int, path: str, names: Names, kinds: Names, contents: dict[int, bytes]
    ) -> Iterator[tuple[str, bytes | None]]:
        """Files below a folder with what is left of their content, and folders with None."""
        for name, inode in names.get(folder, {}).items():
            if inode in kinds:
                yield f"{path}{name}", None
                yield from self._files(inode, f"{path}{name}/", names, kinds, contents)
            else:
                yield f"{path}{name}", contents.get(inode, b"")


def _write(place: Path, files: dict[str, bytes | None]) -> Path:
    for name, content in {"": None, **files}.items():
        path = place / name
        (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_bytes(content)
    return place
