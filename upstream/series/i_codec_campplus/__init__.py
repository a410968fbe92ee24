"""refactor(codec): one CAM++ for Chatterbox, Turbo and Step-Audio 2

The three had a copy each, with different statistics, features and names. One
module under codec/models now has 3D-Speaker's results, loads the checkpoints of
all three as they are, and compares voices by itself with encode().
"""

from upstream.tree import Tree

TEST = "mlx_audio/codec/tests/test_campplus.py"
RELATED = (
    "mlx_audio/codec/tests/test_stepaudio2.py",
    "mlx_audio/tts/tests/test_chatterbox_s3gen_sanitize.py",
    "mlx_audio/tts/tests/test_chatterbox_v3.py",
    "mlx_audio/tts/tests/test_lingv3_tts.py",
    "mlx_audio/tts/tests/test_ming_speaker.py",
)
SHARED = "mlx_audio.codec.models.campplus"
XVECTOR = f'from {SHARED} import CAMLayer, CAMPPlus\n\n__all__ = ["CAMLayer", "CAMPPlus"]\n'
STEPAUDIO2 = f'''from {SHARED} import CAMLayer as FusedCAMLayer
from {SHARED} import CAMPPlus, ModelConfig
from {SHARED} import StatsPool as UnbiasedStatsPool

__all__ = ["FusedCAMLayer", "StepAudio2CAMPPlus", "UnbiasedStatsPool"]


class StepAudio2CAMPPlus(CAMPPlus):
    """CAM++ with the folded batch norms of StepAudio2's ONNX export."""

    def __init__(self):
        super().__init__(ModelConfig(folded=True))
'''


def change(tree: Tree) -> None:
    tree.create_files(__file__)
    tree.rewrite("mlx_audio/tts/models/chatterbox/s3gen/xvector.py", XVECTOR)
    tree.rewrite("mlx_audio/tts/models/chatterbox_turbo/models/s3gen/xvector.py", XVECTOR)
    tree.rewrite("mlx_audio/codec/models/stepaudio2/speaker.py", STEPAUDIO2)
    tree.add_page("CAM++", "models/codec/campplus.md")
