"""Known voices: who is it, and where else does this voice occur."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from speech_zoo_core.errors import ConfigError, InputError, SpeechZooError

from .database import Checkpoint, StoreFile, check_name, printable
from .identification import (
    Identification,
    check_top,
    identification,
    mean_of,
    unit_vector,
    voice_means,
    warn_of_another_person,
    warn_of_short,
)
from .rows import Clip, add_clip, clips
from .search import Passage, Windows, best, windows_of

if TYPE_CHECKING:
    from speech_zoo_core.audio.samples import Audio, Channel

    from ..engines.choice import Name
    from .exchange import Exchanged
    from .index import IndexReport

Array: TypeAlias = np.ndarray[Any, Any]


class VoiceStore:
    """Voices under names, and an index of recordings, in one SQLite file.

    The vectors are of one checkpoint; another one is refused. What a call has written is on disk when it returns, one
    transaction for each audio file. A store may be used by any number of threads and processes at once.

    Args:
        path: of the file; the first call that writes makes it.
        model: of speaker embeddings: what `speech_zoo.load` takes, loaded when it is first needed; or a loaded model.
        channel: of audio that has several, its number from 0 on, or "mean"; default: what the front end says.
        vad: whether clips must hold speech, and stretches without are left out.
        engine, threads: as for `speech_zoo.load`, of a model that is given by its name.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: Any = "campplus-zh-en",
        *,
        channel: "Channel | None" = None,
        vad: bool = True,
        engine: "Name" = "auto",
        threads: int | None = None,
    ) -> None:
        self.path = Path(path)
        self._model = model
        self._how: dict[str, Any] = {"channel": channel, "vad": vad}
        self._by: dict[str, Any] = {"engine": engine, "threads": threads}
        self._file = StoreFile(self.path)
        self._windows: Windows | None = None

    @cached_property
    def model(self) -> Any:
        """The loaded model.

        Raises:
            SpeechZooError: it cannot be loaded, or is for another task.
        """
        if not isinstance(self._model, (str, os.PathLike)):
            return self._model
        from ..models import load

        model = load(self._model, **self._by)
        if model.config.task != "speaker-embedding":
            raise ConfigError(f"{self._model} is for {model.config.task}, not for speaker-embedding")
        return model

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """What tells the model's vectors from those of another one."""
        from speech_zoo_core.identity import identity, identity_before

        named = isinstance(self._model, (str, os.PathLike))
        name = os.fspath(self._model) if named else self.model.config.model_type
        before = identity_before(self.model)
        return Checkpoint(identity(self.model), printable(name), self.model.config.embed_dim, before)

    def enroll(self, name: str, audios: "Iterable[Audio] | Audio", sample_rate: int | None = None) -> int:
        """Add clips to a voice; a clip that it has already, by its content, is left out.

        Of each clip the speech is taken, and what lies between is left out, unless the store was made with `vad=False`.

        Args:
            name: any text but control characters; space around it does not count.
            audios: clips as for `embed`, or one clip.
            sample_rate: in Hz, for samples that come without a rate.

        Returns:
            How many clips were new.

        Raises:
            InputError: the name is empty or holds control characters.
            AudioError: as `embed`; the clips before that one are in the store.
            SpeechZooError: the store cannot be written, or holds vectors of another checkpoint.
        """
        name = check_name(name)
        threshold, least = self._own_threshold  # an unreadable file of thresholds is an error before the work
        new = 0
        for audio in _clips(audios):
            voice = self.model.voice(audio, sample_rate, trim=self._how["vad"], **self._how)
            vector = np.array(voice.vector, "<f4")
            digest = self._digest(audio, sample_rate)
            source = printable(audio) if isinstance(audio, (str, os.PathLike)) else "samples"
            with self._file.writing(self.checkpoint) as db:
                held = [clip.vector for clip in clips(self._file, db, name)]
                added = add_clip(db, Clip(name, digest, source, vector.tobytes()))
            new += added
            if added:
                warn_of_short(source, voice.seconds, least)
            if added and held:
                warn_of_another_person(name, source, mean_of(held), vector, threshold)
        return new

    def names(self) -> dict[str, int]:
        """The names in the store, in alphabetical order, and how many clips each has; needs no model.

        Raises:
            SpeechZooError: there is no store, or it cannot be read.
        """
        return dict(Counter(sorted(self.voices()[0])))

    def remove(self, name: str, clip: "Audio | None" = None, sample_rate: int | None = None) -> int:
        """Delete a voice with all of its clips, or one clip of it; returns how many were deleted.

        Args:
            name: of the voice.
            clip: a file by its path when it was enrolled, which may be gone, or by its content; or samples.
            sample_rate: in Hz, for samples that come without a rate.

        Raises:
            InputError: the store has no such name, or the voice no such clip.
            SpeechZooError: there is no store, or it cannot be written.
        """
        name = check_name(name)
        where, values = "name = ?", [name]
        if clip is not None:
            path = printable(clip) if isinstance(clip, (str, os.PathLike)) else None
            gone_file = path is not None and not os.path.exists(path)  # noqa: PTH110 (Path raises for a long name)
            where += " AND (source = ? OR digest = ?)"
            values += [path or "", "" if gone_file else self._digest(clip, sample_rate)]
        with self._file.writing(create=False) as db:
            self._check_known(db, name)
            count = db.execute(f"DELETE FROM clip WHERE {where}", values).rowcount
            if count == 0:
                raise InputError(f"{name} has no such clip in {self.path}")
        self._file.forget()
        return count

    def rename(self, name: str, new: str) -> int:
        """Give a voice another name, which no voice has yet; returns how many clips it has. Needs no model.

        Raises:
            InputError: the store has no such name, or the new one is taken or is no name.
            SpeechZooError: there is no store, or it cannot be written.
        """
        name, new = check_name(name), check_name(new)
        with self._file.writing(create=False) as db:
            self._check_known(db, name)
            if db.execute("SELECT 1 FROM clip WHERE name = ?", (new,)).fetchone():
                raise InputError(f"{self.path} has a voice named {new!r} already")
            held = list(clips(self._file, db, name))
            db.execute("DELETE FROM clip WHERE name = ?", (name,))
            for clip in held:
                add_clip(db, replace(clip, name=new))
        self._file.forget()
        return len(held)

    def vector(self, name: str) -> Array:
        """The mean of a voice's clips, (D,) float32 of unit length: what `identify` compares with. Needs no model.

        Raises:
            InputError: the store has no such name.
            SpeechZooError: there is no store, it cannot be read, or it is not of the model that was loaded.
        """
        name = check_name(name)
        loaded = "model" in vars(self) or not isinstance(self._model, (str, os.PathLike))
        with self._file.reading(self.checkpoint if loaded else None) as db:
            self._check_known(db, name)
            return mean_of([clip.vector for clip in clips(self._file, db, name)])

    def _check_known(self, db: Any, name: str) -> None:
        if not db.execute("SELECT 1 FROM clip WHERE name = ?", (name,)).fetchone():
            raise InputError(f"{self.path} knows no voice named {name!r}; speech-zoo voices list shows the names")

    def identify(
        self,
        audio: "Audio | None" = None,
        sample_rate: int | None = None,
        top_k: int = 3,
        threshold: float | None = None,
        *,
        vector: "Array | None" = None,
    ) -> Identification:
        """Tell which of the known voices a clip holds; warns of a short clip, and of one in which several people speak.

        Args:
            audio: as for `embed`.
            vector: (D,), an embedding of this model, in place of `audio`.
            sample_rate: in Hz, for samples that come without a rate.
            top_k: how many matches to return.
            threshold: cosine from which a match counts; default: the one calibrated by this user, else the
                checkpoint's own.

        Raises:
            AudioError: as `embed`.
            ConfigError: the checkpoint names no threshold and none was given.
            SpeechZooError: there is no store, or it holds vectors of another checkpoint.
        """
        from ..recordings.several import several_speak

        check_top(top_k)
        names, rows = self._voices(self.checkpoint)
        given, threshold = threshold, self._checked(threshold)
        vector, waveform = self._voice(audio, sample_rate, vector, given)
        several = waveform is not None and several_speak(audio, waveform, self.model, threshold)
        return identification(names, rows, vector, threshold, top_k, several)

    def means(self) -> tuple[list[str], Array]:
        """The names, and the mean of each one's clips, (K, D) of unit length: what `identify` compares with.

        Raises:
            SpeechZooError: there is no store, or it holds vectors of another checkpoint.
        """
        return voice_means(*self._voices(self.checkpoint))

    def voices(self) -> tuple[list[str], Array]:
        """All clips: their names, and their vectors (N, D) float32; needs no model.

        Raises:
            SpeechZooError: as `names`.
        """
        return self._voices(None)

    def _voices(self, checkpoint: Checkpoint | None) -> tuple[list[str], Array]:
        with self._file.reading(checkpoint) as db:
            enrolled = list(clips(self._file, db))
        rows = np.frombuffer(b"".join(clip.vector for clip in enrolled), "<f4")
        return [clip.name for clip in enrolled], rows.reshape(len(enrolled), rows.size // max(1, len(enrolled)))

    def index(self, folder: str | os.PathLike[str], jobs: int = 1) -> "IndexReport":
        """Index the audio files below a folder: the vectors of the stretches in which one person speaks alone.

        Incremental: a file of the same size and time of change is left alone, one that is gone is taken out. Each file
        is a transaction of its own, so what was done when a run is interrupted need not be done again.

        Args:
            folder: hidden files and folders in it are left out.
            jobs: processes that decode and embed; more than one needs a model that was given by its name, and a main
                module that can be imported (`if __name__ == "__main__":`).

        Returns:
            What was done; a file that cannot be used is listed with the reason, no error.

        Raises:
            SpeechZooError: there is no such folder, the store cannot be written or holds vectors of another
                checkpoint, or a process died.
        """
        from .index import in_this_process, update, windows_of_file
        from .workers import in_processes, shared

        if jobs < 1:
            raise InputError(f"jobs is at least 1, not {jobs}")
        if jobs > 1 and not isinstance(self._model, (str, os.PathLike)):
            raise InputError("jobs above 1 need a model by its name: every process loads its own")
        if jobs > 1:
            by = shared(self._by, jobs)
            embed = partial(in_processes, self._model, jobs, by=by, work=partial(windows_of_file, by=by, **self._how))
        else:
            embed = partial(in_this_process, self.model, {"by": self._by, **self._how})
        return update(self._file, self.checkpoint, Path(folder), embed)

    def search(
        self,
        audio: "Audio | None" = None,
        sample_rate: int | None = None,
        top_k: int = 10,
        threshold: float | None = None,
        *,
        vector: "Array | None" = None,
    ) -> list[Passage]:
        """Where in the indexed recordings the voice of a clip occurs, the best passages first.

        The cosine of every stretch is computed. Those at or above the threshold are one passage where nobody else's
        lies between them and no long pause.
        The first search after a change of the index writes the vectors as one matrix beside the store, which later
        ones map into memory.

        Args:
            audio, sample_rate, threshold, vector: as for `identify`.
            top_k: how many passages to return at most.

        Raises:
            AudioError, ConfigError, SpeechZooError: as `identify`.
        """
        check_top(top_k)
        given, threshold = threshold, self._checked(threshold)
        vector, _ = self._voice(audio, sample_rate, vector, given)
        self._windows = windows_of(self._file, self.checkpoint, self._windows)
        return best(self._windows, vector, threshold, top_k)

    def export(self, out: str | os.PathLike[str]) -> "Exchanged":
        """Write all voices and indexed windows to a file that other programs read; needs no model.

        Args:
            out: .parquet (a row for each vector; needs the extra `[parquet]`), or .safetensors.

        Raises:
            InputError: the file's name ends in something else.
            SpeechZooError: there is no store or nothing in it, pyarrow is missing, or the file cannot be written.
        """
        from .exchange import export

        return export(self._file, Path(out))

    def import_from(self, source: str | os.PathLike[str]) -> "Exchanged":
        """Add what `export` wrote, all of it or nothing; needs no model.

        Clips that a voice has already are left out, and what is known of a recording is replaced.

        Raises:
            InputError: the file's name ends in neither .parquet nor .safetensors.
            SpeechZooError: it is no export, pyarrow is missing, or the store cannot be written or holds vectors of
                another checkpoint.
        """
        from .exchange import load

        return load(self._file, Path(source))

    def _voice(
        self, audio: "Audio | None", sample_rate: int | None, vector: "Array | None", threshold: float | None
    ) -> tuple[Array, Array | None]:
        """The embedding of a clip, or one that is given, (D,) float32 of unit length; and the clip's waveform.

        Warns of a clip that is short for the threshold that is in force where none is given.
        """
        from speech_zoo_core.audio.samples import describe

        if (audio is None) == (vector is None):
            raise InputError("give a clip or a vector, and not both")
        if vector is None:
            voice = self.model.voice(audio, sample_rate, **self._how)
            if threshold is None:
                warn_of_short(describe(audio), voice.seconds, self._own_threshold[1])
            return np.array(voice.vector, np.float32), np.array(voice.waveform)
        return unit_vector(vector, self.checkpoint.dim), None

    @cached_property
    def _own_threshold(self) -> tuple[float | None, float | None]:
        """The threshold where none is given, and the seconds of the shortest clip that it was chosen on."""
        from ..calibration.thresholds import threshold_in_force

        return threshold_in_force(self.model)

    def _checked(self, threshold: float | None) -> float:
        from speech_zoo_core.tasks.speaker import check_threshold

        threshold = self._own_threshold[0] if threshold is None else threshold
        if threshold is None:
            raise ConfigError(
                f"{self.checkpoint.name} names no threshold: pass threshold=… (--threshold), or find one with "
                f"speech-zoo calibrate"
            )
        return check_threshold(threshold)

    def _digest(self, audio: "Audio", sample_rate: int | None) -> str:
        """SHA-256 of a file's bytes, or of samples as the model hears them."""
        if isinstance(audio, (str, os.PathLike)):
            try:
                return hashlib.sha256(Path(audio).read_bytes()).hexdigest()
            except OSError as error:
                raise SpeechZooError(f"{printable(audio)} cannot be read: {error.strerror}") from error
        from speech_zoo_core.audio import load_audio

        return hashlib.sha256(np.array(load_audio(audio, self.model.sample_rate, sample_rate)).tobytes()).hexdigest()


def _clips(audios: "Iterable[Audio] | Audio") -> "Iterable[Audio]":
    """The clips of a list, or the one clip that is given alone."""
    from speech_zoo_core.audio.samples import is_clip

    return [audios] if is_clip(audios) else audios  # type: ignore[return-value,list-item]
