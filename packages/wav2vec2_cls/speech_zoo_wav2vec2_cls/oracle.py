"""The original of Wav2Vec2 classifiers: transformers, with its feature extractor."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from speech_zoo_core.checkpoint.source import Source
from speech_zoo_core.errors import CheckpointError
from speech_zoo_core.oracle import TORCH, NoOracle, Oracle, Package, require

TRANSFORMERS = Package("transformers", "transformers>=5")
UNUSED = {"wav2vec2.masked_spec_embed"}  # in inference


def oracle(config: Any, original: Callable[[], Source]) -> Oracle:
    """See `ModelSpec.oracle`."""
    if config.add_adapter:
        raise NoOracle("Wav2Vec2ForSequenceClassification of transformers refuses checkpoints with add_adapter")
    require(TORCH, TRANSFORMERS)
    if int(TRANSFORMERS.version.partition(".")[0]) < 5:
        raise NoOracle(f"transformers {TRANSFORMERS.version} is too old: pip install 'transformers>=5'")
    source = original()
    settings = source.settings("config.json") or {}
    with _quiet():
        module, extractor = _load(source, settings)
    early_sum = _sums_as_transformers_4(settings)

    def features(waveform: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        inputs = extractor(waveform, sampling_rate=extractor.sampling_rate, return_tensors="np")
        return np.asarray(inputs["input_values"][0])[:, None]

    def output(waveform: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        import torch

        inputs = extractor(waveform, sampling_rate=extractor.sampling_rate, return_tensors="pt", padding=True)
        with torch.no_grad():
            return (_version_4(module, inputs) if early_sum else module(**inputs).logits)[0].numpy()

    name = str(TRANSFORMERS)
    return Oracle(TRANSFORMERS.name, TRANSFORMERS.version, output, features, name, int(extractor.sampling_rate))


def _load(source: Source, settings: dict[str, Any]) -> tuple[Any, Any]:
    """The module in inference mode and its feature extractor, from local files alone."""
    import torch
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    classifier: Any = Wav2Vec2ForSequenceClassification  # its types know nothing of the pair below
    module, found = classifier.from_pretrained(
        source.folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    odd = {*found["missing_keys"], *found["unexpected_keys"]} - UNUSED
    odd = {name for name in odd if not name.startswith(("quantizer.", "project_q.", "project_hid."))}
    if odd or found["mismatched_keys"]:
        raise CheckpointError(f"transformers does not take {source.folder}: {', '.join(sorted(odd)[:5])}")
    if (source.folder / "preprocessor_config.json").is_file():
        return module.eval(), Wav2Vec2FeatureExtractor.from_pretrained(source.folder, local_files_only=True)
    masked = settings.get("feat_extract_norm", "group") == "layer"  # as transformers' documentation asks
    return module.eval(), Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=masked)


@contextmanager
def _quiet() -> Iterator[None]:
    """Loading shows a bar and lists every tensor that only training uses; `_load` looks at that itself."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _sums_as_transformers_4(settings: dict[str, Any]) -> bool:
    """Whether the checkpoint was made with a version whose layer sum differs from that of transformers 5."""
    version = str(settings.get("transformers_version") or "").partition(".")[0]
    return bool(settings.get("use_weighted_layer_sum")) and version.isdecimal() and int(version) < 5


def _version_4(module: Any, inputs: Any) -> Any:
    """Logits (1, L) of one clip as in transformers 4: the last hidden state enters the sum after the final norm."""
    import torch

    outputs = module.wav2vec2(**inputs, output_hidden_states=True)
    states = torch.stack([*outputs.hidden_states[:-1], outputs.last_hidden_state], dim=1)
    weights = torch.softmax(module.layer_weights, dim=-1).view(-1, 1, 1)
    return module.classifier(module.projector((states * weights).sum(dim=1)).mean(dim=1))
