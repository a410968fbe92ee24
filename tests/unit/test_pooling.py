"""WeSpeaker's poolings: against plain sums, with and without padding, and how a checkpoint tells which one it has."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import yaml
from mlx.utils import tree_map
from speech_zoo_core.errors import CheckpointError, ConfigError, SpeechZooError
from speech_zoo_core.layers import parameters
from speech_zoo_core.loader import load
from speech_zoo_core.pooling import VALUES, frames_of, pooling
from tiny_models import (
    CAMPPLUS,
    CONFIGS,
    ECAPA_WESPEAKER,
    RESNET,
    WESPEAKER_NAMES,
    model_of,
    tiny_model,
    tiny_source,
    wespeaker_folder,
    wespeaker_yaml,
)

CHANNELS, FRAMES = 16, 23


def seeded(name: Any, **more: Any) -> Any:
    """A pooling of random weights."""
    keys = iter(range(1000))
    module = pooling(name, CHANNELS, **more)
    module.update(tree_map(lambda x: mx.random.normal(x.shape, key=mx.random.key(next(keys))) / 3, module.parameters()))
    return module


def frames(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((FRAMES, CHANNELS))


def weighted(x: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Mean and deviation as WeSpeaker computes them, in float64."""
    shares = np.exp(logits) / np.exp(logits).sum(axis=0)
    mean = (shares * x).sum(axis=0)
    return np.concatenate([mean, np.sqrt(np.maximum((shares * x**2).sum(axis=0) - mean**2, 1e-7))])


def attention(x: np.ndarray, weights: dict[str, np.ndarray], first: str, second: str) -> np.ndarray:
    hidden = np.tanh(x @ weights[f"{first}.weight"].T + weights[f"{first}.bias"])
    return hidden @ weights[f"{second}.weight"].T + weights[f"{second}.bias"]


def plain(name: str, x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    mean, deviation = x.mean(axis=0), np.sqrt(x.var(axis=0, ddof=1) + 1e-7)
    if name in ("TAP", "TSDP", "TSTP"):
        return {"TAP": mean, "TSDP": deviation, "TSTP": np.concatenate([mean, deviation])}[name]
    if name == "ASP":
        hidden = np.maximum(x @ weights["linear1.weight"].T + weights["linear1.bias"], 0)
        return weighted(x, hidden @ weights["linear2.weight"].T + weights["linear2.bias"])
    if name == "ASTP":
        wide = "linear1.weight" in weights and weights["linear1.weight"].shape[1] == 3 * CHANNELS
        seen = np.hstack([x, np.tile(mean, (FRAMES, 1)), np.tile(deviation, (FRAMES, 1))]) if wide else x
        return weighted(x, attention(seen, weights, "linear1", "linear2"))
    queries, heads = ([""], 2) if name == "MHASTP" else (["n_query.0.", "n_query.1."], 8)
    pooled = []
    for query in queries:
        for i, chunk in enumerate(np.split(x, heads, axis=1)):
            head = f"{query}heads_att_trans.{i}.att"
            pooled.append(weighted(chunk, attention(chunk, weights, f"{head}_0", f"{head}_1")))
    return np.concatenate(pooled)


CASES = [(name, {}) for name in VALUES] + [("ASTP", {"global_context": True})]


@pytest.mark.parametrize(("name", "more"), CASES)
def test_against_plain_sums(name: str, more: dict[str, Any]) -> None:
    module = seeded(name, **more)
    weights = {key: np.array(x, np.float64) for key, x in parameters(module).items()}
    ours = np.array(module(mx.array(frames()[None]).astype(mx.float32), None))
    assert ours.shape == (1, VALUES[name] * CHANNELS)
    assert ours[0] == pytest.approx(plain(name, frames(), weights), abs=1e-5)


@pytest.mark.parametrize(("name", "more"), CASES)
def test_frames_of_padding_do_not_count(name: str, more: dict[str, Any]) -> None:
    module = seeded(name, **more)
    clips = mx.array(np.stack([np.vstack([frames(seed), np.full((5, CHANNELS), 7.0)]) for seed in (0, 1)]))
    mask = (mx.arange(FRAMES + 5) < FRAMES).astype(mx.float32)[None, :, None]
    together = module(clips.astype(mx.float32), mx.broadcast_to(mask, (2, FRAMES + 5, 1)))
    for seed in (0, 1):
        alone = module(mx.array(frames(seed)[None]).astype(mx.float32), None)
        assert mx.allclose(together[seed], alone[0], rtol=1e-5, atol=1e-5)


def test_the_channel_is_outermost_in_the_frames_of_an_image() -> None:
    image = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)  # (B, F, T, C)
    assert np.array_equal(frames_of(mx.array(image)), image.transpose(0, 2, 3, 1).reshape(2, 4, 15))


# Which one a checkpoint has


FAMILIES = {
    "resnet34": replace(RESNET, num_blocks=[2, 2, 2, 2]),
    "campplus": CAMPPLUS,
    "ecapa_tdnn": replace(ECAPA_WESPEAKER, global_context=False, attention_channels=128),
}


def saved(folder: Path, config: Any, **args: Any) -> Path:
    names = WESPEAKER_NAMES | {"resnet34": "ResNet18", "ecapa_tdnn": "ECAPA_TDNN_c512"}
    settings = wespeaker_yaml(config, names[config.model_type])
    settings["model_args"] |= args
    return wespeaker_folder(folder, config, settings=yaml.safe_dump(settings))


def refusal(path: Path, error: type[SpeechZooError]) -> str:
    with pytest.raises(error) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", [name for name in VALUES if name != "ASP"])  # of SimAM-ResNet alone
@pytest.mark.parametrize("family", FAMILIES)
def test_wespeaker(tmp_path: Path, family: str, name: Any) -> None:
    config = replace(FAMILIES[family], pooling_func=name)
    assert replace(load(saved(tmp_path, config)).config, source=None) == config


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "said"), [("TSTP", "ASTP"), ("ASTP", "TSTP"), ("MHASTP", "MQMHASTP"), ("TSTP", "XI")])
def test_settings_that_name_another_one(tmp_path: Path, family: str, name: Any, said: str) -> None:
    path = saved(tmp_path, replace(FAMILIES[family], pooling_func=name), pooling_func=said)
    message = refusal(path, ConfigError)
    assert f"pooling_func = '{said}'" in message
    assert name in message


@pytest.mark.parametrize("family", FAMILIES)
def test_a_width_that_another_one_gives(tmp_path: Path, family: str) -> None:
    assert refusal(saved(tmp_path, FAMILIES[family], pooling_func="TAP"), SpeechZooError)


def test_a_pooling_that_only_the_settings_tell(tmp_path: Path) -> None:
    path = saved(tmp_path, replace(FAMILIES["ecapa_tdnn"], pooling_func="TAP"))
    (path / "config.yaml").unlink()
    assert "put its config.yaml beside it, which tells its pooling" in refusal(path, CheckpointError)


@pytest.mark.parametrize("name", ["campplus_mqmhastp"])
def test_campplus_has_two_names_for_its_pooling(name: str) -> None:
    """Twice in a state dict; once, under either name, where equal tensors are stored once."""
    source = tiny_source(name)
    twins = {key.replace("pool.", "xvector.stats."): x for key, x in source.items() if key.startswith("pool.")}
    others = {key: x for key, x in source.items() if not key.startswith("pool.")}
    expected = parameters(tiny_model(name))
    for weights in (source | twins, others | twins):
        loaded = parameters(model_of(CONFIGS[name], weights))
        assert all(mx.array_equal(loaded[key], x) for key, x in expected.items())


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (CAMPPLUS, {"growth_rate": 3, "init_channels": 20}),
        (ECAPA_WESPEAKER, {"channels": [32, 32, 32, 32, 44]}),
        (CONFIGS["redimnet"], {"out_channels": 12}),
    ],
    ids=["campplus", "ecapa_tdnn", "redimnet"],
)
def test_channels_that_the_heads_cannot_share(config: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="heads of MQMHASTP cannot share"):
        replace(config, pooling_func="MQMHASTP", **changes)
