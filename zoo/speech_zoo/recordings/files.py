"""Which files a person means: a file, the audio files of a folder, or those that fit a pattern."""

import os
from collections.abc import Iterable
from glob import glob, has_magic
from pathlib import Path

from speech_zoo_core.errors import InputError

SUFFIXES = frozenset(
    ".3gp .aac .ac3 .aif .aifc .aiff .amr .au .caf .flac .m4a .m4b .mka .mkv .mov .mp2 .mp3 .mp4 .oga .ogg .opus .snd "
    ".sph .w64 .wav .webm .wma .wv".split()
)


def audio_files(given: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files that are meant, in the order given; what lies in a folder, or fits a pattern, in alphabetical order.

    Hidden files and folders, and files whose ending is not one of audio, are left out of folders. A path that exists is
    no pattern.

    Raises:
        InputError: a folder holds no audio file, or nothing fits a pattern.
    """
    files: list[Path] = []
    for item in given:
        path, text = Path(item), os.fspath(item)
        if os.path.isdir(path):  # noqa: PTH112 (Path.is_dir raises for a name that is too long)
            audio = sorted(_below(path))
            if not audio:
                raise InputError(f"{text} holds no audio files")
            files += audio
        elif has_magic(text) and not os.path.lexists(path):
            matches = sorted(Path(match) for match in glob(text, recursive=True) if os.path.isfile(match))  # noqa: PTH113, PTH207
            if not matches:
                raise InputError(f"no file fits {text}")
            files += matches
        else:
            files.append(path)
    return files


def _below(folder: Path) -> Iterable[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(place, name)
