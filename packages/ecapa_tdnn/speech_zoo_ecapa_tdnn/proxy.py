"""The speaker proxy: speaker embeddings from sums of RVQ codebook embeddings, differentiable from the input on.

The card of `speaker_proxy_10k_best.pt` names the parts, not the code. Assumed where it is silent: SpeechBrain's
layers and names, a first convolution of one tap, an aggregation as wide as a block. See `proxy_config`.
"""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from speech_zoo_core.errors import InputError

from .model import ModelConfig

PROXY_CONFIG_KEYS = {"input_dim", "embed_dim", "channels", "num_blocks"}  # of the published checkpoint's `config`


def proxy_config(
    input_dim: int = 2048, embed_dim: int = 192, channels: int = 512, num_blocks: int = 3, *, res2net_scale: int = 8
) -> ModelConfig:
    """The configuration of a speaker proxy; the defaults are those of the published one.

    With one tap in the first convolution, dilations 2, 3, 4, and as many channels in the aggregation as in a block,
    it has 4.54 million parameters before BatchNorms are folded; the card says about 4.6 million. A first convolution
    of SpeechBrain's five taps alone would have 5.2 million.
    """
    return ModelConfig(
        model_type="ecapa_tdnn",
        embed_dim=embed_dim,
        feat_dim=input_dim,
        channels=[channels] * (num_blocks + 2),
        kernel_sizes=[1] + [3] * num_blocks + [1],
        dilations=[1, *range(2, num_blocks + 2), 1],
        res2net_scale=res2net_scale,
    )


def rvq_sum(tokens: mx.array, tables: Sequence[mx.array] | mx.array) -> mx.array:
    """Sum the codebook embeddings of RVQ tokens.

    Args:
        tokens: (B, T, Q) integers, one for each of Q codebooks.
        tables: Q codebooks (V, D), V may differ.

    Returns:
        (B, T, D) in the type of the tables.

    Raises:
        InputError: a token lies outside its codebook, or the numbers of codebooks differ.
    """
    if tokens.ndim != 3 or not mx.issubdtype(tokens.dtype, mx.integer):
        raise InputError(f"tokens must be integers (B, T, Q), not {tokens.dtype} of shape {tokens.shape}")
    if tokens.shape[-1] != len(tables):
        raise InputError(
            f"tokens of shape {tokens.shape} go with {tokens.shape[-1]} codebooks, {len(tables)} are given"
        )
    if tokens.size == 0:
        raise InputError(f"tokens of shape {tokens.shape} are empty")
    if any(table.ndim != 2 or table.shape[1] != tables[0].shape[1] for table in tables):
        raise InputError(f"codebooks must be (V, D) with one D, not {[table.shape for table in tables]}")
    for i, table in enumerate(tables):
        lowest, highest = (int(bound(np.array(tokens[..., i]))) for bound in (np.min, np.max))
        if lowest < 0 or highest >= len(table):
            wrong = lowest if lowest < 0 else highest
            raise InputError(f"token {wrong} lies outside codebook {i}, which has {len(table)} entries")
    return sum((table[tokens[..., i]] for i, table in enumerate(tables[1:], 1)), tables[0][tokens[..., 0]])


def _pairs(embeddings: mx.array, speakers: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """Cosines (N, N) of unit embeddings, and which pairs are of one speaker (no clip with itself) and of two.

    Raises:
        InputError: their numbers differ.
    """
    if embeddings.ndim != 2 or speakers.shape != embeddings.shape[:1]:
        raise InputError(f"embeddings of shape {embeddings.shape} do not go with speakers of shape {speakers.shape}")
    same = (speakers[:, None] == speakers[None]).astype(embeddings.dtype)
    return embeddings @ embeddings.T, same - mx.eye(len(speakers), dtype=same.dtype), 1 - same


def contrastive_loss(embeddings: mx.array, speakers: mx.array, repel: float = 5.0, margin: float = 0.0) -> mx.array:
    """Mean (1 - cos)^2 over pairs of one speaker, plus `repel` times the mean ReLU(cos - margin)^2 over pairs of two.

    Args:
        embeddings: (N, D) unit length.
        speakers: (N,) integers.
        repel: the weight, 5 on the proxy's card.
        margin: the cosine up to which two speakers may be alike; the card names none.

    Returns:
        A scalar; a kind of pair that does not occur adds nothing.

    Raises:
        InputError: the numbers of embeddings and speakers differ.
    """
    cosines, same, different = _pairs(embeddings, speakers)
    align = mx.sum(same * mx.square(1 - cosines)) / mx.maximum(mx.sum(same), 1)
    push = mx.sum(different * mx.square(mx.maximum(cosines - margin, 0))) / mx.maximum(mx.sum(different), 1)
    return align + repel * push


def separation(embeddings: mx.array, speakers: mx.array) -> mx.array:
    """Mean cosine of pairs of one speaker less that of pairs of two: the card's metric.

    Args:
        embeddings: (N, D) unit length.
        speakers: (N,) integers; both kinds of pairs must occur.

    Raises:
        InputError: there are no two clips of one speaker, or only one speaker, or the numbers differ.
    """
    cosines, same, different = _pairs(embeddings, speakers)
    if not mx.sum(same) or not mx.sum(different):
        raise InputError("separation needs two speakers, and two clips of one of them")
    return mx.sum(same * cosines) / mx.sum(same) - mx.sum(different * cosines) / mx.sum(different)
