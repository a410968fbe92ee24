"""Which embeddings are of the same speaker: agglomerative clustering, in time that grows with the recording's length.

The average linkage of a few thousand embeddings takes seconds, and its time and memory grow with their square. So more
are clustered in blocks, in the order of time; what a block found takes part in the next round as one embedding each,
until one block is left.
"""

from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"

BLOCK = 1000  # embeddings that are clustered at once
SMALL, SHARE = 3.0, 0.05  # seconds, or share of the speech: a cluster with less is a part of the most similar one


def clustered(vectors: Array, weights: Array, threshold: float, least: int = 1, most: int | None = None) -> Array:
    """Cluster embeddings.

    Args:
        vectors: (N, D) of unit length, in the order of time; N at least 1.
        weights: (N,) seconds of speech behind each.
        threshold: the cosine above which clusters are joined, on average over their pairs.
        least, most: how many clusters there must be; fewer than `least` only if there are fewer embeddings.

    Returns:
        (K, D) the clusters' means, of unit length, the largest first.
    """
    while len(vectors) > BLOCK:
        starts = range(0, len(vectors), BLOCK)
        parts = [_means(vectors[i : i + BLOCK], weights[i : i + BLOCK], threshold) for i in starts]
        if sum(len(means) for means, _ in parts) > 0.9 * len(vectors):  # nothing alike in a block: the weighty ones
            kept = np.sort(np.argsort(-weights, kind="stable")[:BLOCK])
            vectors, weights = vectors[kept], weights[kept]
        else:
            vectors, weights = np.concatenate([m for m, _ in parts]), np.concatenate([w for _, w in parts])
    if len(vectors) == 1:
        return vectors
    return _within(vectors, weights, threshold, least, len(vectors) if most is None else most)


def _within(vectors: Array, weights: Array, threshold: float, least: int, most: int) -> Array:
    """The means of the large clusters, as many as asked for."""
    from scipy.cluster.hierarchy import fcluster

    tree = _tree(vectors)
    best = _large(vectors, weights, fcluster(tree, 1 - threshold, "distance"))
    if least <= len(best) <= most:
        return best
    wanted = least if len(best) < least else most
    for count in range(wanted, len(vectors) + 1):  # some may be small, so the tree is cut into more
        clusters = _large(vectors, weights, fcluster(tree, count, "maxclust"))
        if len(clusters) >= wanted:
            return clusters[:wanted]
        best = max(best, clusters, key=len)
    return best[:most]


def _large(vectors: Array, weights: Array, labels: Array) -> Array:
    """The means of clusters that hold enough of the speech, the largest first; of the largest, if none does."""
    sizes = np.bincount(labels, weights)
    order = np.argsort(-sizes, kind="stable")
    large = [k for k in order if sizes[k] >= min(SMALL, SHARE * weights.sum()) and sizes[k] > 0] or [order[0]]
    return _unit(np.stack([weights[labels == k] @ vectors[labels == k] for k in large]))


def _means(vectors: Array, weights: Array, threshold: float) -> tuple[Array, Array]:
    """Means (K, D) and weights (K,) of the clusters of a block."""
    from scipy.cluster.hierarchy import fcluster

    if len(vectors) == 1:
        return vectors, weights
    labels = fcluster(_tree(vectors), 1 - threshold, "distance") - 1
    sums = np.zeros((labels.max() + 1, vectors.shape[1]))
    np.add.at(sums, labels, vectors * weights[:, None])
    return _unit(sums), np.bincount(labels, weights)


def _tree(vectors: Array) -> Array:
    from scipy.cluster.hierarchy import linkage

    tree: Array = linkage(vectors.astype(np.float64), "average", "cosine")
    return tree


def _unit(rows: Array) -> Array:
    unit: Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
