"""Score normalisation: what a score is worth among those that other voices get (adaptive s-norm).

Reference: Matějka et al., "Analysis of Score Normalization in Multilingual Speaker Recognition", Interspeech 2017; as
WeSpeaker's wespeaker/bin/score_norm.py computes it, with the population's standard deviation.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import written_beside
from ..audio.samples import Array
from ..errors import ConfigError, InputError, SpeechZooError
from ..identity import identity

TOP = 300  # of the cohort, the most similar voices: what WeSpeaker's recipes take
LEAST = 2  # voices that have a deviation
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Cohort:
    """Voices of other people, as one checkpoint embeds them.

    Attributes:
        vectors: (N, D) float32, of unit length, one for each speaker.
        identity: of the checkpoint, see `speech_zoo_core.identity`.
        model: the checkpoint, as it was named.
    """

    vectors: Array
    identity: str
    model: str

    def __post_init__(self) -> None:
        if len(self.vectors) < LEAST:
            raise InputError(f"a cohort takes {LEAST} speakers or more, best some hundreds, not {len(self.vectors)}")

    @classmethod
    def of(cls, model: Any, name: str, speakers: Sequence[Array]) -> "Cohort":
        """Of the embeddings (K, D) of each speaker's clips, whose mean counts."""
        means = [np.asarray(vectors, np.float64).mean(axis=0) for vectors in speakers]
        rows = [mean / np.linalg.norm(mean) for mean in means]
        return cls(np.array(rows, np.float32), identity(model), name)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Cohort":
        """Read what `save` wrote.

        Raises:
            SpeechZooError: the file is missing, or no cohort.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "np") as file:
                metadata, vectors = file.metadata() or {}, file.get_tensor("cohort")
            if vectors.dtype != np.float32 or not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):
                raise ValueError("its vectors are not of unit length")
            return cls(vectors, metadata["identity"], metadata["model"])
        except FileNotFoundError as error:
            raise SpeechZooError(f"{path} does not exist; speech-zoo cohort makes one") from error
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise SpeechZooError(f"{path} is no cohort ({error}); speech-zoo cohort makes one") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .safetensors; it appears whole.

        Raises:
            SpeechZooError: it cannot be written.
        """
        from safetensors.numpy import save_file

        with written_beside(Path(path)) as beside:
            save_file({"cohort": self.vectors}, beside, {"identity": self.identity, "model": self.model})

    def check(self, model: Any) -> None:
        """Raises ConfigError where another checkpoint made it."""
        if self.identity != identity(model):
            raise ConfigError(f"the cohort was made with {self.model}, another checkpoint: make one with this model")

    def normalise(self, scores: Array, a: Array, b: Array, top: int = TOP) -> Array:
        """Scores (N,), cosines of rows `a` and `b` (N, D), in deviations above what the cohort gets.

        Each side has the mean and the deviation of its `top` highest cosines with the cohort; a score is normalised
        with both, and the mean of the two is taken.

        Returns:
            (N,) float64.

        Raises:
            ConfigError: the highest cosines are all the same, or `top` is below 2.
        """
        sides = [self.statistics(rows, top) for rows in (a, b)]
        return sum((scores - mean) / deviation for mean, deviation in sides) / 2  # type: ignore[return-value]

    def statistics(self, vectors: Array, top: int = TOP) -> tuple[Array, Array]:
        """Mean and deviation (N,), float64, of the highest `top` cosines of vectors (N, D) with the cohort."""
        if top < LEAST:
            raise ConfigError(f"of a cohort at least {LEAST} voices count, not {top}")
        cohort, top = self.vectors.astype(np.float64), min(top, len(self.vectors))
        parts = []
        for start in range(0, len(vectors), ROWS_AT_ONCE):
            cosines = vectors[start : start + ROWS_AT_ONCE].astype(np.float64) @ cohort.T
            parts.append(np.partition(cosines, -top, axis=1)[:, -top:])
        highest = np.concatenate(parts)
        deviation = highest.std(axis=1)
        if not (deviation > 1e-9).all():
            raise ConfigError("the voices of the cohort that come first are all the same; take more and other ones")
        return highest.mean(axis=1), deviation
