"""fix(lid): compute ECAPA-TDNN's features as SpeechBrain does

SpeechBrain's triangles use the distance to the lower neighbour on both sides.
The usual triangles, which were used here, are more than 20 dB off on speech.
"""

from upstream.tree import Tree

TEST = "mlx_audio/lid/tests/test_lid.py"


def change(tree: Tree) -> None:
    tree.replace(
        "mlx_audio/lid/models/ecapa_tdnn/mel.py",
        "        band_right = f_right - f_center\n",
        """        # SpeechBrain gives both slopes the width of the lower side.
        band_right = band_left
        f_right = f_center + band_right
""",
        "_htk_mel_filterbank",
    )
