"""fix(lid): pad ECAPA-TDNN by reflection, as SpeechBrain does

The shared backbone can, since it serves SpeechBrain's speaker embeddings; the
language model left it at zero padding. Clips of four feature frames or fewer,
which have nothing to mirror, are now an error.
"""

from upstream.tree import AnchorError, Tree

TEST = "mlx_audio/lid/tests/test_lid.py"
RELATED = ("mlx_audio/codec/tests/test_ecapa_backbone.py",)


def change(tree: Tree) -> None:
    if "padding_mode" not in tree.read("mlx_audio/codec/models/ecapa_tdnn/config.py"):
        raise AnchorError("the shared ECAPA-TDNN backbone has no padding_mode yet")
    tree.after(
        "mlx_audio/lid/models/ecapa_tdnn/ecapa_tdnn.py",
        "            global_context=True,\n",
        '            padding_mode="reflect",\n',
        "ECAPA_TDNN.__init__",
    )
