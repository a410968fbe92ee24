"""The seeded weights of `speech_zoo.bench.weights` under the names of other toolkits."""

import re

import numpy as np

WESPEAKER_NAMES = (  # what turns SpeechBrain's names into WeSpeaker's, one after the other
    (r"\b(conv\d?|norm|asp_bn|fc)\.(?:conv|norm)\.", r"\1."),
    (r"^blocks\.0\.", "layer1."),
    *((rf"^blocks\.{i}\.", f"layer{i + 1}.se_res2block.") for i in (1, 2, 3)),
    (r"\.tdnn1\.", ".0."),
    (r"\.res2net_block\.blocks\.(\d+)\.(conv|norm)\.", r".1.\2s.\1."),
    (r"\.tdnn2\.", ".2."),
    (r"\.se_block\.conv", ".3.linear"),
    (r"\.norm(s?)\.", r".bn\1."),
    (r"^mfa\.", ""),
    (r"^asp\.tdnn\.conv\.", "pool.linear1."),
    (r"^asp\.conv\.", "pool.linear2."),
    (r"^asp_bn\.", "bn."),
    (r"^fc\.", "linear."),
)


def wespeaker_ecapa(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of an ECAPA-TDNN as WeSpeaker has them: its names, and two axes where it has a linear layer."""
    found = {}
    for name, x in weights.items():
        new = name
        for pattern, replacement in WESPEAKER_NAMES:
            new = re.sub(pattern, replacement, new)
        linear = new.startswith("linear.") or ".3.linear" in new
        found[new] = x[..., 0] if linear and x.ndim == 3 else x
    return found
