"""feat(lid): batches of different length for wav2vec2 classifiers

The backbone takes an attention mask, the classifier pools under it, and
predict_batch() pads clips with it. Weight norm is resolved once, after loading.
"""

from upstream.tree import Tree

TEST = "mlx_audio/lid/tests/test_lid.py"
ON_TOP_OF = ("b_lid_spec_embed", "c_lid_converted", "d_lid_layer_sum")
BACKBONE, CLASSIFIER = "mlx_audio/stt/models/wav2vec/wav2vec.py", "mlx_audio/lid/models/wav2vec2/wav2vec_lid.py"
MODEL = "Wav2Vec2ForSequenceClassification"

FRAME_MASK = '''    def _get_feature_vector_attention_mask(self, frames, attention_mask):
        """Mask of samples (B, T) to mask of frames (B, frames), as booleans."""
        lengths = mx.sum(attention_mask, axis=-1)
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride):
            lengths = (lengths - kernel) // stride + 1
        return mx.arange(frames)[None] < lengths[:, None]

'''
POOLING = """        if attention_mask is None:
            pooled = mx.mean(hidden_states, axis=1)  # (B, proj_size)
        else:
            mask = self.wav2vec2._get_feature_vector_attention_mask(
                hidden_states.shape[1], attention_mask
            )[..., None]
            pooled = mx.sum(hidden_states * mask, axis=1) / mx.sum(mask, axis=1)
"""
METHODS = '''    @classmethod
    def post_load_hook(cls, model, model_path):
        """Resolve the positional convolution's weight norm once."""
        embed = model.wav2vec2.encoder.pos_conv_embed
        old, size = embed.conv, model.config.hidden_size
        new = nn.Conv1d(
            size, size, old.kernel_size, padding=old.padding, groups=old.groups
        )
        norm = mx.linalg.norm(old.weight_v, axis=(0, 2), keepdims=True)
        new.weight, new.bias = old.weight_g * old.weight_v / norm, old.bias
        mx.eval(new.parameters())
        embed.conv = new
        return model

    def predict_batch(
        self, clips: list[mx.array], top_k: int = 5
    ) -> list[list[tuple[str, float]]]:
        """As ``predict`` for each of several waveforms (T,), computed together.

        Models with a group-norm feature extractor were trained without attention
        masks, and padding would change their result: they take one at a time.
        """
        if self.config.feat_extract_norm == "group":
            return [self.predict(clip, top_k) for clip in clips]
        lengths = mx.array([clip.size for clip in clips])
        longest = max(clip.size for clip in clips)
        normal = [
            (clip - mx.mean(clip)) / mx.sqrt(mx.var(clip) + 1e-7) for clip in clips
        ]
        batch = mx.stack([mx.pad(x, (0, longest - x.size)) for x in normal])
        mask = mx.arange(longest)[None] < lengths[:, None]
        probs = mx.softmax(self(batch, mask), axis=-1)
        id2label = self.config.id2label or {}
        results = []
        for row in probs.tolist():
            best = sorted(enumerate(row), key=lambda x: x[1], reverse=True)[:top_k]
            results.append([(id2label.get(str(i), f"LABEL_{i}"), p) for i, p in best])
        return results

'''


def change(tree: Tree) -> None:
    for encoder in ("Wav2Vec2Encoder", "Wav2Vec2EncoderStableLayerNorm"):
        tree.replace(
            BACKBONE,
            "            expand_attention_mask = attention_mask[..., None]\n",
            """            hidden_states = hidden_states * attention_mask[..., None]
            attention_mask = attention_mask[:, None, None, :]

""",
            f"{encoder}.__call__",
            until="        position_embeddings = ",
        )
    tree.before(BACKBONE, "    def _mask_hidden_states(", FRAME_MASK, "Wav2Vec2Model")
    tree.after(
        CLASSIFIER,
        "input_values: mx.array,\n",
        "        attention_mask: Optional[mx.array] = None,\n",
        f"{MODEL}.__call__",
    )
    tree.replace(
        CLASSIFIER,
        "            attention_mask: Not currently",
        "            attention_mask: 1 or True where a sample of a padded batch is real,\n"
        "                shape (B, T). None if all clips have the same length.\n",
        f"{MODEL}.__call__",
        until="\n        Returns:",
    )
    tree.replace(CLASSIFIER, "attention_mask=None,", "attention_mask=attention_mask,", f"{MODEL}.__call__")
    tree.replace(
        CLASSIFIER,
        "        pooled = mx.mean(hidden_states, axis=1)  # (B, proj_size)\n",
        POOLING,
        f"{MODEL}.__call__",
    )
    tree.before(CLASSIFIER, "    def predict(\n", METHODS, MODEL)
