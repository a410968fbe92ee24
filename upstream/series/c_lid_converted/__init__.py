"""fix(lid): load converted wav2vec2 checkpoints

sanitize swapped the axes of every convolution whether or not the checkpoint was
converted before, so that what mlx_audio.convert wrote could not be loaded. The
shape of the first convolution, (O, 1, K) or (O, K, 1), now decides.
"""

from upstream.tree import Tree

TEST = "mlx_audio/lid/tests/test_lid.py"
PATH, SANITIZE = "mlx_audio/lid/models/wav2vec2/wav2vec_lid.py", "Wav2Vec2ForSequenceClassification.sanitize"


def change(tree: Tree) -> None:
    tree.before(
        PATH,
        "        sanitized = {}\n",
        """        # A converted checkpoint is in MLX's layout; its first convolution tells.
        first = weights.get("wav2vec2.feature_extractor.conv_layers.0.conv.weight")
        layers = self.wav2vec2.feature_extractor.conv_layers
        converted = first is not None and first.shape == layers[0].conv.weight.shape

""",
        SANITIZE,
    )
    tree.replace(PATH, 'if k.endswith(".conv.weight"):', 'if k.endswith(".conv.weight") and not converted:', SANITIZE)
    tree.replace(
        PATH,
        'if k.endswith(".conv.weight_v") or k.endswith(".conv.weight_g"):',
        'if k.endswith((".conv.weight_v", ".conv.weight_g")) and not converted:',
        SANITIZE,
    )
