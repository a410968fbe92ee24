"""The usage snippets of a model card, to be run as they stand there."""

import re
from dataclasses import dataclass

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Snippets:
    """What a card tells its readers to run.

    Attributes:
        mlx_audio: Python that loads through mlx-audio.
        speech_zoo: Python that loads through speech_zoo.
        commands: lines of a shell, each split into words.
    """

    mlx_audio: str
    speech_zoo: str
    commands: list[list[str]]


def snippets(card: str) -> Snippets:
    """Take the three snippets out of a card; the clips in them are `a.wav` and `b.wav`."""
    (first, mlx_audio), (second, speech_zoo), (third, shell) = FENCE.findall(
        card.partition("\n## Use without MLX\n")[0]
    )
    assert (first, second, third) == ("python", "python", "sh")
    assert "import mlx_audio\n" in mlx_audio
    assert "import speech_zoo\n" in speech_zoo
    return Snippets(mlx_audio, speech_zoo, [line.split() for line in shell.splitlines()])
