"""The arguments of ReDimNet2 as WeSpeaker and PalabraAI write them; without PyTorch."""

from typing import Any

from speech_zoo_redimnet.oracle import redimnet2_stages


def arguments(config: Any, **changes: Any) -> dict[str, Any]:
    """Those of the original's class; None leaves one out."""
    given = {
        "F": config.feat_dim,
        "C": config.C,
        "agg_gnorm": config.agg_gnorm,
        "dual_agg": config.dual_agg,
        "block_1d_type": "conv+att",
        "block_2d_type": config.block_2d_type,
        "causal": "none",
        "compress_tconvs": True,
        "embed_dim": config.embed_dim,
        "fm_weigthing_type": "NC",
        "global_context_att": True,
        "group_divisor": config.group_divisor,
        "out_channels": config.out_channels,
        "pooling_func": "ASTP",
        "return_2d_output": config.return_2d_output,
        "stages_setup": redimnet2_stages(config),
    } | changes
    return {key: value for key, value in given.items() if value is not None or key == "out_channels"}


def palabra_arguments(config: Any, **changes: Any) -> dict[str, Any]:
    """PalabraAI's `model_config`."""
    spec = {"norm_signal": True, "do_preemph": True, "do_spec_aug": False}
    own = {"feat_type": "tf", "hop_length": 160, "emb_bn": False, "spec_params": spec, "spec_in_channels": 1}
    return arguments(config, **(own | changes))
