"""fix(lid): honour use_weighted_layer_sum

Classifiers such as superb/wav2vec2-base-superb-* average the hidden states of
all layers with learnt weights. The setting and its tensor were ignored without
a word, and the logits came from the last layer alone.
"""

from upstream.tree import Tree

TEST = "mlx_audio/lid/tests/test_lid.py"
FOLDER, MODEL = "mlx_audio/lid/models/wav2vec2", "Wav2Vec2ForSequenceClassification"


def change(tree: Tree) -> None:
    path = f"{FOLDER}/wav2vec_lid.py"
    tree.after(
        f"{FOLDER}/config.py", "num_labels: int = 2\n", "    use_weighted_layer_sum: bool = False\n", "ModelConfig"
    )
    tree.before(
        path,
        "        self.projector = nn.Linear(",
        """        if config.use_weighted_layer_sum:
            self.layer_weights = mx.ones((config.num_hidden_layers + 1,))
""",
        f"{MODEL}.__init__",
    )
    tree.replace(
        path,
        "output_hidden_states=False,",
        "output_hidden_states=self.config.use_weighted_layer_sum,",
        f"{MODEL}.__call__",
    )
    tree.after(
        path,
        "hidden_states = outputs.last_hidden_state  # (B, T', hidden_size)\n",
        """        if self.config.use_weighted_layer_sum:
            weights = mx.softmax(self.layer_weights)[:, None, None, None]
            hidden_states = mx.sum(mx.stack(outputs.hidden_states) * weights, axis=0)
""",
        f"{MODEL}.__call__",
    )
