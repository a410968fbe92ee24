"""fix(chatterbox): divide CAM++'s last context segment by its own length

The speaker encoder of Chatterbox and Chatterbox Turbo averages its context over
segments of 100 frames. The last, shorter one was padded with zeros and divided
by 100; PyTorch's ceil mode, which the original uses, divides by its length.
"""

from upstream.tree import Tree

TEST = "mlx_audio/tts/tests/test_chatterbox_campplus.py"
RELATED = (
    "mlx_audio/tts/tests/test_chatterbox_s3gen_sanitize.py",
    "mlx_audio/tts/tests/test_chatterbox_v3.py",
    "mlx_audio/codec/tests/test_stepaudio2.py",
    "mlx_audio/tts/tests/test_lingv3_tts.py",
)
SIZES = "sizes = mx.minimum(seg_len, T - seg_len * mx.arange(n_segs))\n"


def change(tree: Tree) -> None:
    tree.replace(
        "mlx_audio/tts/models/chatterbox/s3gen/xvector.py",
        "seg = mx.mean(x_reshaped, axis=-1)",
        f"{SIZES}            seg = mx.sum(x_reshaped, axis=-1) / sizes",
        "CAMLayer.seg_pooling",
    )
    tree.replace(
        "mlx_audio/tts/models/chatterbox_turbo/models/s3gen/xvector.py",
        "seg = x.mean(axis=2)",
        f"{SIZES}        seg = x.sum(axis=2) / sizes[:, None]",
        "CAMLayer.seg_pooling",
    )
