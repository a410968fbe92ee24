"""fix(lid): drop masked_spec_embed under any prefix

Wav2Vec2ForSequenceClassification checkpoints of transformers hold it as
wav2vec2.masked_spec_embed. sanitize dropped the bare name only, so that
mlx_audio.convert stopped on every one of them: "not in model".
"""

from upstream.tree import Tree

TEST = "mlx_audio/lid/tests/test_lid.py"


def change(tree: Tree) -> None:
    tree.replace(
        "mlx_audio/lid/models/wav2vec2/wav2vec_lid.py",
        'k == "masked_spec_embed"',
        'k.split(".")[-1] == "masked_spec_embed"',
        "Wav2Vec2ForSequenceClassification.sanitize",
    )
