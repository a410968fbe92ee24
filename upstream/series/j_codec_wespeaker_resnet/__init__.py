"""feat(codec): add WeSpeaker's ResNet speaker embeddings

ResNet34, which pyannote's diarization uses, and its larger sisters, beside the
ECAPA-TDNN extractor: encode() gives a unit-length vector of who is speaking.
"""

from upstream.tree import Tree

TEST = "mlx_audio/codec/tests/test_wespeaker_resnet.py"
RELATED = ("mlx_audio/codec/tests/test_ecapa_speaker.py", "mlx_audio/tests/test_lazy_imports.py")
ON_TOP_OF = ("g_dsp_kaldi_fbank",)


def change(tree: Tree) -> None:
    tree.create_files(__file__)
    tree.add_page("WeSpeaker ResNet", "models/codec/wespeaker-resnet.md")
