"""The original of Wav2Vec2 and its kin: transformers, with its feature extractor."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from speech_zoo_core.audio.front_end import WaveformFrontEnd
from speech_zoo_core.checkpoint.source import Source
from speech_zoo_core.config import to_dict
from speech_zoo_core.errors import CheckpointError
from speech_zoo_core.oracle import TORCH, NoOracle, Oracle, Package, require, seeded, torch_oracle
from speech_zoo_core.registry import Example

from .config import ModelConfig
from .source import CLASSIFIER, KINDS, X_VECTOR

TRANSFORMERS = Package("transformers", "transformers>=5")


def oracle(config: Any, original: Callable[[], Source]) -> Oracle:
    """See `ModelSpec.oracle`."""
    if config.add_adapter:
        raise NoOracle("the classifiers of transformers refuse checkpoints with add_adapter")
    _require()
    source = original()
    settings = source.settings("config.json") or {}
    extractor = _extractor(source, settings)

    def features(waveform: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        inputs = extractor(waveform, sampling_rate=extractor.sampling_rate, return_tensors="np")
        return np.asarray(inputs["input_values"][0])[:, None]

    def inputs(clips: "np.ndarray[Any, Any]") -> tuple[Any, ...]:
        """What the extractor does, which imports torch; the mask is all ones where clips are of one length."""
        return (np.stack(extractor.zero_mean_unit_var_norm(list(clips), None)) if extractor.do_normalize else clips,)

    return torch_oracle(
        TRANSFORMERS,
        lambda: _module(source, settings, X_VECTOR if config.task == "speaker-embedding" else CLASSIFIER),
        inputs,
        features=features,
        features_by=str(TRANSFORMERS),
        sample_rate=int(extractor.sampling_rate),
    )


def _require() -> None:
    """Raises NoOracle unless transformers can run the models here."""
    require(TORCH, TRANSFORMERS)
    if int(TRANSFORMERS.version.partition(".")[0]) < 5:
        raise NoOracle(f"transformers {TRANSFORMERS.version} is too old: pip install 'transformers>=5'")


def _extractor(source: Source, settings: dict[str, Any]) -> Any:
    """The feature extractor as transformers finds it, from local files alone."""
    from transformers import Wav2Vec2FeatureExtractor

    files = ("processor_config.json", "preprocessor_config.json")
    if any((source.folder / name).is_file() for name in files):
        with suppress(OSError):  # a processor's settings alone, without those of a feature extractor
            given, _ = Wav2Vec2FeatureExtractor.get_feature_extractor_dict(source.folder, local_files_only=True)
            if given.get("feature_extractor_type") in (None, Wav2Vec2FeatureExtractor.__name__):
                return Wav2Vec2FeatureExtractor.from_pretrained(source.folder, local_files_only=True)
            from transformers import AutoFeatureExtractor  # which imports torch, so only where the class is another

            return AutoFeatureExtractor.from_pretrained(source.folder, local_files_only=True)
    masked = settings.get("feat_extract_norm", "group") == "layer"  # as transformers' documentation asks
    return Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=masked)


def _module(source: Source, settings: dict[str, Any], head: str) -> Any:
    """The module in inference mode, from local files alone; an x-vector's gives the embedding alone."""
    import torch
    import transformers

    original: Any = getattr(transformers, KINDS[settings["model_type"]] + head)

    class XVector(original):  # type: ignore[misc]
        def forward(self, input_values: Any) -> Any:
            return super().forward(input_values).embeddings

    with _quiet():
        module, loading = (XVector if head == X_VECTOR else original).from_pretrained(
            source.folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    body = module.base_model_prefix
    odd = {*loading["missing_keys"], *loading["unexpected_keys"]} - {f"{body}.masked_spec_embed"}
    odd = {name for name in odd if not name.startswith(("quantizer.", "project_q.", "project_hid."))}
    if odd or loading["mismatched_keys"]:
        raise CheckpointError(f"transformers does not take {source.folder}: {', '.join(sorted(odd)[:5])}")
    if _sums_as_transformers_4(settings):
        getattr(module, body).register_forward_hook(_last_after_the_norm)
    return module.eval()


def _last_after_the_norm(_module: Any, _inputs: Any, outputs: Any) -> Any:
    """The last hidden state enters the weighted sum after the final norm, as in transformers 4."""
    outputs.hidden_states = (*outputs.hidden_states[:-1], outputs.last_hidden_state)
    return outputs


def write_example(config: Any, folder: Path) -> None:
    """See `Example.write`."""
    _require()
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    settings = {name: x for name, x in to_dict(config).items() if name in Wav2Vec2Config().to_dict()}
    labels = {int(i): label for i, label in config.id2label.items()}
    settings |= {"model_type": "wav2vec2", "id2label": labels, "label2id": {x: i for i, x in labels.items()}}
    with _quiet():
        module = seeded(lambda: Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**settings)))
        module.save_pretrained(folder, max_shard_size="1GB")
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Loading shows a bar and lists every tensor that only training uses; `_module` looks at that itself."""
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


EXAMPLE = Example(  # facebook/mms-lid-256
    "mms",
    ModelConfig(
        model_type="wav2vec2_cls",
        task="audio-classification",
        front_end=WaveformFrontEnd(),
        id2label={str(i): f"l{i:03}" for i in range(256)},
        hidden_size=1280,
        num_hidden_layers=48,
        num_attention_heads=16,
        intermediate_size=5120,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
        classifier_proj_size=1024,
    ),
    write_example,
)
