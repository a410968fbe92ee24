"""Train a speaker proxy on synthetic speakers until separation passes 0.8 on clips that it has not seen.

A speaker is a set of tokens that it prefers in each of 16 codebooks; a clip is a sequence of 16-token frames.

    pip install mlx-speech-zoo && python train_speaker_proxy.py
"""

import speech_zoo_core  # isort: skip  # noqa: F401 (before MLX, whose TF32 it turns off)
import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx import nn
from speech_zoo_ecapa_tdnn import Model, contrastive_loss, proxy_config, rvq_sum, separation

SPEAKERS, CODEBOOKS, ENTRIES, FRAMES = 20, 16, 64, 25
PREFERRED, PREFERENCE = 8, 0.4  # tokens that a speaker prefers in a codebook, and how often it uses one of them
GOAL, MOST_STEPS, CLIPS = 0.8, 300, 40

rng = np.random.default_rng(0)
favourites = rng.integers(0, ENTRIES, (SPEAKERS, CODEBOOKS, PREFERRED))


def clips(count: int) -> tuple[mx.array, mx.array]:
    """Tokens (count, T, 16) of new clips, and who speaks in each (count,), every speaker at least twice if it fits."""
    speakers = rng.permutation(np.arange(count) % SPEAKERS)
    tokens = rng.integers(0, ENTRIES, (count, FRAMES, CODEBOOKS))
    picked = rng.integers(0, PREFERRED, tokens.shape)
    own = np.take_along_axis(favourites[speakers][:, None], picked[..., None], axis=3)[..., 0]
    return mx.array(np.where(rng.random(tokens.shape) < PREFERENCE, own, tokens)), mx.array(speakers)


def main() -> None:
    mx.random.seed(0)
    config = proxy_config(input_dim=256, embed_dim=64, channels=64)  # proxy_config() is the published size
    tables = mx.random.normal((CODEBOOKS, ENTRIES, config.feat_dim)) / CODEBOOKS**0.5
    proxy, optimizer = Model(config), optim.AdamW(learning_rate=1e-3, weight_decay=1e-5)
    unseen, unseen_speakers = clips(2 * CLIPS)

    def loss(tokens: mx.array, speakers: mx.array) -> mx.array:
        return contrastive_loss(proxy(rvq_sum(tokens, tables)), speakers, repel=5.0)

    step_of = nn.value_and_grad(proxy, loss)
    for step in range(1, MOST_STEPS + 1):
        value, gradients = step_of(*clips(CLIPS))
        optimizer.update(proxy, gradients)
        mx.eval(proxy.parameters(), optimizer.state)
        if step % 10 == 0:
            reached = float(separation(proxy(rvq_sum(unseen, tables)), unseen_speakers))
            print(f"step {step:3}  loss {float(value):.4f}  separation {reached:.4f}", flush=True)
            if reached > GOAL:
                return
    raise SystemExit(f"separation stayed at or below {GOAL}")


if __name__ == "__main__":
    main()
