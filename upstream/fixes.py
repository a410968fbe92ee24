"""The minimal fixes of what is wrong in mlx-audio's language identification, each with a test that fails before it."""

from pathlib import Path

from .tree import Tree

TEMPLATES = Path(__file__).resolve().parent / "templates"
WAV2VEC2 = "mlx_audio/lid/models/wav2vec2/wav2vec_lid.py"
SANITIZE = "Wav2Vec2ForSequenceClassification.sanitize"
CALL = "Wav2Vec2ForSequenceClassification.__call__"


def add_fixes(tree: Tree) -> None:
    """One commit for each fix.

    Raises:
        AnchorError: the source is another.
    """
    spec_embed(tree)
    converted(tree)
    layer_sum(tree)
    ecapa_features(tree)
    ecapa_padding(tree)


def _with_test(tree: Tree, name: str, message: str) -> None:
    path = f"mlx_audio/lid/tests/{name}"
    tree.create(path, (TEMPLATES / path).read_text(encoding="utf-8"))
    tree.commit(message, proof=path)


def spec_embed(tree: Tree) -> None:
    tree.replace(WAV2VEC2, 'k == "masked_spec_embed"', 'k.split(".")[-1] == "masked_spec_embed"', SANITIZE)
    _with_test(
        tree,
        "test_wav2vec2_spec_embed.py",
        """fix(lid): drop masked_spec_embed under any prefix

Wav2Vec2ForSequenceClassification checkpoints of transformers hold it as
wav2vec2.masked_spec_embed. sanitize dropped the bare name only, so
mlx_audio.convert stopped on every one of them: "not in model".""",
    )


def converted(tree: Tree) -> None:
    tree.before(
        WAV2VEC2,
        "        sanitized = {}\n",
        """        # A converted checkpoint is in MLX's layout; its first convolution tells.
        first = weights.get("wav2vec2.feature_extractor.conv_layers.0.conv.weight")
        layers = self.wav2vec2.feature_extractor.conv_layers
        converted = first is not None and first.shape == layers[0].conv.weight.shape

""",
        SANITIZE,
    )
    tree.replace(
        WAV2VEC2,
        'if k.endswith(".conv.weight"):',
        'if k.endswith(".conv.weight") and not converted:',
        SANITIZE,
    )
    tree.replace(
        WAV2VEC2,
        'if k.endswith(".conv.weight_v") or k.endswith(".conv.weight_g"):',
        'if k.endswith((".conv.weight_v", ".conv.weight_g")) and not converted:',
        SANITIZE,
    )
    _with_test(
        tree,
        "test_wav2vec2_converted.py",
        """fix(lid): load converted wav2vec2 checkpoints

sanitize swapped the axes of every convolution whether or not the checkpoint
was converted before, so what mlx_audio.convert wrote could not be loaded.
The shape of the first convolution, (O, 1, K) or (O, K, 1), now decides.""",
    )


def layer_sum(tree: Tree) -> None:
    config = "mlx_audio/lid/models/wav2vec2/config.py"
    tree.after(config, "    num_labels: int = 2\n", "    use_weighted_layer_sum: bool = False\n", "ModelConfig")
    tree.before(
        WAV2VEC2,
        "        self.projector = nn.Linear(",
        """        if config.use_weighted_layer_sum:
            self.layer_weights = mx.ones((config.num_hidden_layers + 1,))
""",
        "Wav2Vec2ForSequenceClassification.__init__",
    )
    tree.replace(
        WAV2VEC2,
        "output_hidden_states=False,",
        "output_hidden_states=self.config.use_weighted_layer_sum,",
        CALL,
    )
    tree.replace(
        WAV2VEC2,
        "        hidden_states = outputs.last_hidden_state  # (B, T', hidden_size)\n",
        """        if self.config.use_weighted_layer_sum:
            weights = mx.softmax(self.layer_weights)[:, None, None, None]
            hidden_states = mx.sum(mx.stack(outputs.hidden_states) * weights, axis=0)
        else:
            hidden_states = outputs.last_hidden_state  # (B, T', hidden_size)
""",
        CALL,
    )
    _with_test(
        tree,
        "test_wav2vec2_layer_sum.py",
        """fix(lid): honour use_weighted_layer_sum

Classifiers such as superb/wav2vec2-base-superb-* average the hidden states of
all layers with learnt weights. The setting and its tensor were ignored without
a word, and the logits came from the last layer alone.

With do_stable_layer_norm the last state enters after the encoder's final norm,
as this encoder gives it and as transformers 4 did when such checkpoints were
trained; transformers 5 takes it before the norm.""",
    )


def ecapa_features(tree: Tree) -> None:
    tree.replace(
        "mlx_audio/lid/models/ecapa_tdnn/mel.py",
        "        band_right = f_right - f_center\n",
        """        # SpeechBrain gives both slopes the width of the lower side.
        band_right = band_left
        f_right = f_center + band_right
""",
        "_htk_mel_filterbank",
    )
    _with_test(
        tree,
        "test_ecapa_features.py",
        """fix(lid): compute ECAPA-TDNN's features as SpeechBrain does

SpeechBrain's triangles use the distance to the lower neighbour on both sides.
The usual triangles, which were used here, are up to 39 dB off on real speech.
mlx_audio/codec/models/ecapa_tdnn/speaker.py has it right already.""",
    )


def ecapa_padding(tree: Tree) -> None:
    tree.after(
        "mlx_audio/lid/models/ecapa_tdnn/ecapa_tdnn.py",
        "            global_context=True,\n",
        '            padding_mode="reflect",\n',
        "ECAPA_TDNN.__init__",
    )
    _with_test(
        tree,
        "test_ecapa_padding.py",
        """fix(lid): pad ECAPA-TDNN by reflection, as SpeechBrain does

The shared backbone can, since it serves SpeechBrain's speaker embeddings; the
language model left it at zero padding. Clips of four feature frames or fewer,
which have nothing to mirror, are now an error.""",
    )
