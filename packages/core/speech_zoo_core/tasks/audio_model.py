"""From audio to a model's raw output: features, clip by clip or in batches."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from ..audio.front_end import FrontEnd, WaveformFrontEnd
from ..audio.samples import Array, Audio, Channel, describe, is_clip
from ..audio.stream import load_audio
from ..audio.vad import check_speech, only_speech, speech
from ..device import are_values, in_trace, on_cpu, while_tracing
from ..errors import AudioError, ConfigError, InputError
from ..processes import check_process, evaluated
from ..progress import progress

CHUNK_CLIPS = 64  # clips whose features are held at once
BATCH_SECONDS = 160.0  # of padded audio per forward pass, to bound memory
BUCKETS = 8  # lengths between one power of two and the next that a GPU's clips are padded to


class Engine(Protocol):
    """Computes a model's network in place of MLX."""

    name: str
    batch_seconds: float  # of clips of one length that it computes together; 0: one clip at a time

    def __call__(self, model: Any, x: mx.array) -> mx.array | None:
        """Raw outputs (B, …) of features (B, T, F), all clips of one length; None where MLX must compute them."""


class AudioModel:
    """A model that maps features (B, T, F) to raw outputs (B, D).

    The model class sets `min_frames` and `config` and defines `__call__(features, lengths=None)`, where `lengths`
    (B,) gives the frames of clips that were padded to T.
    """

    config: Any
    min_frames: int
    batches_unequal = True  # whether clips of different length may share a batch
    masks_padding = True  # whether zeros after a clip, with its length given, leave its result as it is
    one_graph = True  # whether the traced graph of one length can serve all; where not, each length has its own
    half_precision = True  # whether float16 stays within the limits of parity
    engine: Engine | None = None  # None: MLX computes
    default_sample_rate: int | None = None  # in Hz, of samples that come without one; None refuses them

    @property
    def sample_rate(self) -> int:
        """The rate that the model works at, in Hz; clips of other rates are resampled."""
        return self._front_end().sample_rate

    def __call__(self, x: mx.array, lengths: mx.array | None = None) -> mx.array:  # pragma: no cover
        raise TypeError("the model class defines __call__")

    @property
    def feature_width(self) -> int:
        """The width of a frame, F."""
        front_end = self.config.front_end
        if front_end is None:
            return int(self.config.feat_dim)
        return 1 if isinstance(front_end, WaveformFrontEnd) else int(front_end.n_mels)

    def _by_engine(self, x: mx.array, lengths: mx.array | None = None) -> mx.array | None:
        """What `__call__` gives, as the engine computes it.

        None where MLX must: without an engine, in a trace, in a gradient, and where it is for the model to say what is
        wrong with its input.
        """
        if self.engine is None or in_trace() or not are_values(x, *([] if lengths is None else [lengths])):
            return None
        if lengths is not None and not (self.masks_padding and mx.issubdtype(lengths.dtype, mx.integer)):
            return None
        if x.ndim < 3:
            x = self.waveform_features(x, lengths)
        if x.ndim != 3 or x.shape[2] != self.feature_width or x.shape[1] < self.min_frames or not len(x):
            return None
        if lengths is None:
            return self.engine(self, x)
        self._check_lengths(lengths, x.shape[1], len(x))
        rows = []
        for i, length in enumerate(np.array(lengths)):
            if (row := self.engine(self, x[i : i + 1, :length])) is None:
                return None
            rows.append(row)
        return mx.concatenate(rows)

    def features(
        self, audio: Audio, sample_rate: int | None = None, *, channel: Channel | None = None, vad: bool = True
    ) -> mx.array:
        """The front end's features of one clip, (T, F) float32.

        Args:
            audio: what `load_audio` takes.
            sample_rate: in Hz, for samples that come without a rate.
            channel: of several, its number from 0 on, or "mean"; default: what the front end says.
            vad: whether a clip must hold speech.

        Raises:
            AudioError: unusable audio, no speech, or a clip shorter than the model's minimum.
        """
        return evaluated(self._front_end()(self._clip(audio, sample_rate, channel, vad)[0]))

    def _clip(
        self, audio: Audio, sample_rate: int | None, channel: Channel | None, vad: bool, trim: bool = False
    ) -> tuple[mx.array, Array | None]:
        """One clip at the front end's rate, (N,) float32, and the steps of it that hold speech; errors as `features`.

        With `trim`, what holds no speech is left out. The steps are None without `vad`.
        """
        check_process()
        front_end = self._front_end()
        if self.default_sample_rate is not None and isinstance(audio, (np.ndarray, mx.array)):  # as mlx-audio has them
            sample_rate = sample_rate or self.default_sample_rate
            if audio.ndim == 2 and audio.shape[0] == 1:
                audio = audio[0]
        waveform = load_audio(
            audio,
            front_end.sample_rate,
            sample_rate,
            resampler=front_end.resampler,
            channel=front_end.channel if channel is None else channel,
        )
        self._check_length(waveform.size, describe(audio))
        if not (vad or trim):
            return waveform, None
        samples = np.array(waveform)
        speaks = speech(samples, front_end.sample_rate)
        check_speech(speaks, describe(audio))
        if trim:
            waveform = mx.array(only_speech(samples, speaks, front_end.sample_rate))
            self._check_length(waveform.size, f"the speech in {describe(audio)}")
        return waveform, speaks

    def _check_length(self, size: int, name: str) -> None:
        """Raises AudioError for a clip of fewer samples than the model needs."""
        front_end = self._front_end()
        if front_end.num_frames(size) < self.min_frames:
            raise AudioError(
                f"{name} is too short: {size / front_end.sample_rate:.3f} s, "
                f"{self.config.model_type} needs at least {front_end.seconds(self.min_frames):.3f} s"
            )

    def waveform_features(self, waveforms: mx.array, lengths: mx.array | None = None) -> mx.array:
        """Features of waveforms (N,) or (B, N), float32 in [-1, 1] at the front end's rate: (B, T, F).

        `lengths` (B,) gives the feature frames of clips that are followed by zeros.

        Raises:
            InputError: the waveforms are shorter than the model's minimum, or `lengths` does not fit them.
        """
        front_end = self._front_end()
        rows = waveforms[None] if waveforms.ndim == 1 else waveforms
        n_frames = front_end.num_frames(rows.shape[-1])
        if n_frames < self.min_frames:
            raise InputError(f"waveforms of {rows.shape[-1]} samples are too short: at least {self.min_frames} frames")
        self._check_lengths(lengths, n_frames, len(rows))
        sizes: list[Any] = [None] * len(rows) if lengths is None else lengths.tolist()  # type: ignore[assignment]
        return evaluated(mx.stack([front_end(row, size) for row, size in zip(rows, sizes, strict=True)]))

    def _check_lengths(self, lengths: mx.array | None, size: int, count: int) -> None:
        """Raises InputError unless `lengths` gives `count` clips at least `min_frames` and at most `size` frames."""
        if lengths is None or in_trace():
            return
        sizes = np.array(lengths)
        if sizes.shape != (count,) or sizes.dtype.kind not in "iu":
            raise InputError(f"lengths must be {count} whole numbers of frames, not {lengths.dtype} of {sizes.shape}")
        if sizes.min() < self.min_frames or sizes.max() > size:
            raise InputError(f"lengths {sizes.tolist()} must lie between {self.min_frames} and {size} frames")

    def _front_end(self) -> FrontEnd | WaveformFrontEnd:
        front_end: FrontEnd | WaveformFrontEnd | None = self.config.front_end
        if front_end is None:
            raise ConfigError("this checkpoint takes no audio; call the model with its features (B, T, F)")
        return front_end

    def _outputs(
        self,
        audios: Sequence[Audio],
        doing: str,
        sample_rate: int | None,
        channel: Channel | None,
        vad: bool,
        trim: bool = False,
    ) -> list[mx.array]:
        """The raw output (D,) of each clip, in the order given; shows progress on a terminal."""
        if is_clip(audios):
            raise AudioError("a batch takes a list of clips; embed or predict takes one")
        front_end = self._front_end()
        frames_per_second = 1 / (front_end.seconds(2) - front_end.seconds(1))
        limit = int(self.batch_seconds * frames_per_second)
        unequal = self.batches_unequal and self.engine is None
        rows: list[mx.array] = []
        with progress(total=len(audios), desc=doing, unit="clip") as bar:
            for start in range(0, len(audios), CHUNK_CLIPS):
                by_place: dict[int, mx.array] = {}
                clips: dict[int, mx.array] = {}
                for i, audio in enumerate(audios[start : start + CHUNK_CLIPS], start):
                    waveform, speaks = self._clip(audio, sample_rate, channel, vad, trim)
                    if (output := self._in_windows(waveform, speaks)) is not None:
                        by_place[i] = output
                        bar.update()
                    else:
                        clips[i] = front_end(waveform)
                for batch in _batches({i: len(clip) for i, clip in clips.items()}, limit, unequal):
                    outputs = evaluated(self._batch([clips[i] for i in batch]))
                    by_place.update(zip(batch, outputs, strict=True))
                    bar.update(len(batch))
                rows += [by_place[i] for i in sorted(by_place)]
        return rows

    @property
    def batch_seconds(self) -> float:
        """Seconds of audio, padding included, that one pass takes where there are several clips; 0: one clip."""
        if self.engine is not None:
            return self.engine.batch_seconds
        return 0.0 if on_cpu() else BATCH_SECONDS

    def _forward(self, clip: mx.array) -> mx.array:
        """The raw output (D,) of one clip's features (T, F), evaluated."""
        return evaluated(self._batch([clip])[0])

    def _in_windows(self, waveform: mx.array, speaks: Array | None) -> mx.array | None:
        """The raw output (D,) of a clip that is too long for one pass; None for all others."""
        return None

    def _batch(self, clips: list[mx.array]) -> mx.array:
        """Raw outputs (B, D) of clips (T_i, F); on a GPU compiled, once for all lengths of a bucket."""
        if on_cpu() or self.engine is not None or not self.masks_padding:
            return self._padded(clips)
        sizes = [len(clip) for clip in clips]
        return self._compiled(_stacked(clips, bucket(max(sizes))), mx.array(sizes))

    @cached_property
    def _compiled(self) -> Callable[[mx.array, mx.array], mx.array]:
        """The model, compiled for each shape that it is given; its weights are looked up at every call."""

        def run(x: mx.array, lengths: mx.array) -> mx.array:
            with while_tracing():
                return self(x, lengths)

        return mx.compile(run, inputs=self.state)  # type: ignore[attr-defined, no-any-return]

    def _padded(self, clips: list[mx.array]) -> mx.array:
        """Raw outputs (B, D) of clips (T_i, F), padded to the longest where they differ."""
        sizes = [len(clip) for clip in clips]
        if len(set(sizes)) == 1:
            return self(mx.stack(clips))
        return self(_stacked(clips, max(sizes)), mx.array(sizes))


def _stacked(clips: list[mx.array], size: int) -> mx.array:
    """Clips (T_i, F), padded with zeros: (B, size, F)."""
    nothing = mx.zeros((size, clips[0].shape[1]), clips[0].dtype)
    return mx.concatenate([part for clip in clips for part in (clip, nothing[len(clip) :])]).reshape(
        len(clips), size, -1
    )


def bucket(size: int) -> int:
    """The length that clips of `size` frames, 1 or more, are padded to on a GPU: at most one part in `BUCKETS` more."""
    step = max(1, (1 << size.bit_length() - 1) // BUCKETS)
    return -(-size // step) * step


def _batches(sizes: dict[int, int], limit: int, mixed: bool) -> Iterator[list[int]]:
    """Clips (their keys) grouped by similar size, each group within `limit` frames when padded.

    Clips of one size only, unless `mixed`.

    A batch has a power of two of clips, so that few shapes are compiled on a GPU.
    """
    batch: list[int] = []
    for i in sorted(sizes, key=sizes.__getitem__):
        if batch and (sizes[i] * (len(batch) + 1) > limit or (not mixed and sizes[i] != sizes[batch[0]])):
            yield from _powers_of_two(batch)
            batch = []
        batch.append(i)
    yield from _powers_of_two(batch)


def _powers_of_two(batch: list[int]) -> Iterator[list[int]]:
    """A batch cut into ones whose sizes are powers of two, the largest first."""
    while batch:
        count = 1 << len(batch).bit_length() - 1
        yield batch[:count]
        batch = batch[count:]
