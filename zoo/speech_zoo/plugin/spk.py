"""Speaker embeddings; `import mlx_audio.spk` runs this file.

>>> from mlx_audio.spk import load
>>> load("campplus-zh-en").encode(samples, sample_rate=16000)
"""

from speech_zoo.plugin.load import load_speaker as load

load_model = load
__all__ = ["load", "load_model"]
