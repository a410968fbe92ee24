"""Clips to speaker embeddings, of which one that cannot be used stops no other: for manifests and for Ray Data."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from speech_zoo_core.errors import AudioError, ConfigError, InputError

from ..engines.choice import Name
from ..models import load
from ..recordings.windows import stream_for
from ..settings import DEFAULT_MODEL
from .manifest import AUDIO_KEYS, segment

FACTS = ("sample_rate", "offset", "duration")  # columns of a batch beside its audio
SLACK_SECONDS = 0.05  # manifests round durations, and decoders differ in what they cut off an MP3's ends


class Embedder:
    """Speaker embeddings of batches of audio, one model for each worker: for Ray Data, or whatever calls it.

    >>> files = ray.data.read_json("files.jsonl", lines=True)
    >>> workers = ray.data.ActorPoolStrategy(size=2)
    >>> embedded = files.map_batches(speech_zoo.Embedder, fn_constructor_kwargs={"model": "campplus-zh-en"},
    ...                           compute=workers, num_cpus=2, batch_size=64)
    >>> embedded.filter(lambda row: not row["error"]).write_parquet("out")

    Args:
        model: what `load` takes, for speaker embeddings.
        engine, threads: as for `load`.

    Raises:
        SpeechZooError: one line that says what is wrong and what to do.
    """

    def __init__(
        self, model: str | os.PathLike[str] = DEFAULT_MODEL, *, engine: Name = "auto", threads: int | None = None
    ) -> None:
        self.model = load(os.fspath(model), task="speaker-embedding", engine=engine, threads=threads)
        self.sample_rate: int = self.model.sample_rate  # raises ConfigError where the model takes no audio
        self._segments = _Segments(self.model)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Embed the rows of a batch.

        Args:
            batch: columns, each a sequence of B values. Of these are read "audio" (or "audio_filepath", "file_name"):
                paths, or arrays of samples (N,) or (N, channels), int or float; "sample_rate" in Hz, for arrays; and
                "offset" and "duration" in seconds, for paths: the part of the file that is the clip.

        Returns:
            The batch, with "embedding", (B, D) float32 of unit length, and "error", (B,) texts. A row that cannot be
            used has an embedding of NaN and an error that says why; all others have an empty one.

        Raises:
            InputError: the batch has no column of audio, or arrays and no column of rates.
        """
        key = next((key for key in AUDIO_KEYS if key in batch), None)
        if key is None:
            raise InputError(f"a batch needs a column {', '.join(AUDIO_KEYS)}; this one has {', '.join(batch)}")
        errors = [""] * len(batch[key])
        vectors = np.full((len(errors), self.model.config.embed_dim), np.nan, np.float32)
        waveforms: dict[int, mx.array] = {}
        for i, audio in enumerate(batch[key]):
            try:
                waveforms[i] = self._row(audio, {name: _known(batch[name][i]) for name in FACTS if name in batch})
            except (AudioError, ConfigError) as error:
                errors[i] = str(error)
        for i, embedding in zip(waveforms, self.embeddings(list(waveforms.values())), strict=True):
            if isinstance(embedding, AudioError):
                errors[i] = str(embedding)
            else:
                vectors[i] = embedding
        return {**batch, "embedding": vectors, "error": np.array(errors, object)}

    def _row(self, audio: Any, facts: dict[str, Any]) -> mx.array:
        if isinstance(audio, (str, os.PathLike)):
            return self.waveform(Path(audio), *segment(facts, f"{audio}: "))
        if "sample_rate" not in facts:
            raise InputError('arrays need a column "sample_rate", in Hz')
        clip: mx.array = self.model._clip((np.asarray(audio), facts["sample_rate"]), None, None, vad=True)[0]
        return clip

    def waveform(self, path: Path, offset: float | None = None, duration: float | None = None) -> mx.array:
        """A file, or the segment of it that begins at `offset` and lasts `duration` seconds, at the model's rate: (N,).

        Raises:
            AudioError: it cannot be read or used, or the file is shorter than offset + duration.
        """
        try:
            whole = offset is None and duration is None
            audio = path if whole else (self._segments.cut(path, offset, duration), self.sample_rate)
            clip: mx.array = self.model._clip(audio, None, None, vad=True)[0]
        except MemoryError as error:
            raise AudioError(f"{path} does not fit in memory; cut it into shorter files") from error
        return clip

    def embeddings(self, waveforms: Sequence[mx.array]) -> "list[np.ndarray[Any, Any] | AudioError]":
        """The embedding (D,) of each waveform, or why it has none."""
        pairs = [(waveform, self.sample_rate) for waveform in waveforms]
        try:
            if len(pairs) == 1:
                return [np.array(self.model.embed(pairs[0], vad=False))]
            return list(np.array(self.model.embed_batch(pairs, vad=False)))
        except AudioError as error:
            if len(pairs) == 1:
                return [error]
            return [vector for waveform in waveforms for vector in self.embeddings([waveform])]


def _known(value: Any) -> Any:
    """A value of a column as Python has it; None for NaN, which a column of numbers has where a row says nothing."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if value != value else value  # noqa: PLR0124


class _Segments:
    """Cuts segments out of files; those of one file in the order of their offsets cost one pass through it."""

    def __init__(self, model: Any) -> None:
        self.model, self.sample_rate = model, model.sample_rate
        self._path: Path | None = None
        self._start = 0  # of what is held, in samples
        self._held: list[np.ndarray[Any, Any]] = []
        self._blocks: Iterator[np.ndarray[Any, Any]] = iter(())

    def cut(self, path: Path, offset: float | None, duration: float | None) -> "np.ndarray[Any, Any]":
        """(N,) float32 in [-1, 1].

        Raises:
            AudioError: the file cannot be read, or is too short.
        """
        start = round((offset or 0.0) * self.sample_rate)
        stop = math.inf if duration is None else round(((offset or 0.0) + duration) * self.sample_rate)
        if path != self._path or start < self._start:
            self._start, self._held, self._blocks = 0, [], stream_for(self.model, path).blocks()
        self._path = None  # until reading has gone well
        end = self._start + sum(map(len, self._held))
        while end < stop and (block := next(self._blocks, None)) is not None:
            self._held.append(block)
            end += len(block)
            while self._held and self._start + len(self._held[0]) <= start:
                self._start += len(self._held.pop(0))
        self._path = path
        if end <= start or (duration is not None and end < stop - SLACK_SECONDS * self.sample_rate):
            length = "to its end" if duration is None else f"for {duration:.15g} s"
            asked = f"from {offset or 0:.15g} s {length}"
            raise AudioError(f"{path} is {end / self.sample_rate:.3f} s long, too short for a segment {asked}")
        samples = np.concatenate(self._held)[start - self._start :]
        return samples if duration is None else samples[: stop - start]
