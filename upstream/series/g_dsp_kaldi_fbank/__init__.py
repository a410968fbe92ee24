"""fix(dsp): floor and pre-emphasis of compute_fbank_kaldi as in Kaldi

Kaldi takes the logarithm of at least FLT_EPSILON (1.19e-7), not 1e-8, and
pre-emphasises the first sample of a frame with itself; it was left as it is.
"""

from upstream.tree import Tree

TEST = "mlx_audio/tests/test_dsp.py"
RELATED = (
    "mlx_audio/sts/tests/test_mossformer2_se.py",
    "mlx_audio/stt/tests/test_fireredasr2.py",
    "mlx_audio/stt/tests/test_fun_asr_nano.py",
    "mlx_audio/stt/tests/test_sensevoice.py",
    "mlx_audio/tts/tests/test_lingv3_tts.py",
    "mlx_audio/tts/tests/test_ming_speaker.py",
)


def change(tree: Tree) -> None:
    path, within = "mlx_audio/dsp.py", "compute_fbank_kaldi"
    tree.replace(
        path,
        "first_col = strided_input[:, 0:1]",
        "first_col = (1.0 - preemphasis) * strided_input[:, 0:1]",
        within,
    )
    tree.replace(path, "mx.maximum(mel_features, 1e-8)", "mx.maximum(mel_features, 1.1920929e-07)", within)
