"""Forms of sources that only the original's own code can write, through the oracle that `speech-zoo check` runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity_oracles import seeded
from signals import waveforms
from speech_zoo import convert, load
from speech_zoo_core import registry
from speech_zoo_core.checkpoint.source import Source
from speech_zoo_core.oracle_speechbrain import speechbrain_module
from speechbrain_files import SPEAKERS, speaker_hyperparams, write_folder
from transformers import AutoFeatureExtractor, Wav2Vec2FeatureExtractor
from transformers_oracles import LAYER, TINY, Classifier

LANGUAGES = ["Arabic", "Basque", "Chinese_China", "Dutch", "Kabyle", "Hakha_Chin"]
LOGITS = 1e-4  # of the largest


def scores(folder: Path, out: Path) -> tuple[np.ndarray, np.ndarray, Any]:
    """What the original and the converted model give for a voice."""
    model = load(convert(folder, out))
    oracle = registry.get(model.config.model_type).oracle(model.config, lambda: Source(folder))
    clip = waveforms()["voice 01"]
    return np.asarray(oracle.output(clip)), np.array(model.logits((clip, 16000))), model


@pytest.mark.parametrize("labels", [LANGUAGES, ["us", "england", "indian", "newzealand"]])
def test_a_classifier_by_cosines(tmp_path: Path, labels: list[str]) -> None:
    module = speechbrain_module("lobes.models.ECAPA_TDNN")

    channels = [64, 64, 64, 64, 192]
    text = speaker_hyperparams(n_mels=80, embed_dim=48, channels=channels, speakers=len(labels))
    assert SPEAKERS.splitlines()[0] in text
    embedding = seeded(module.ECAPA_TDNN(80, channels=channels, lin_neurons=48), 3)
    head = module.Classifier(48, out_neurons=len(labels))
    tensors = {f"embedding_model.{name}": x for name, x in embedding.state_dict().items()}
    tensors |= {f"classifier.{name}": x for name, x in head.state_dict().items()}
    folder = write_folder(tmp_path / "source", text, tensors, lambda path, logits: torch.save(logits, path), labels)
    expected, logits, model = scores(folder, tmp_path / "out")
    assert np.abs(expected - logits).max() <= LOGITS * np.abs(expected).max()
    assert np.abs(logits).max() <= 1
    assert model.predict((waveforms()["voice 01"], 16000), top_k=1)[0].label == labels[int(expected.argmax())]


@pytest.mark.parametrize("normalise", [True, False])
def test_a_processor_as_transformers_5_writes_it(tmp_path: Path, normalise: bool) -> None:
    theirs = Classifier(True, **{**TINY, **LAYER})
    folder = theirs.save(tmp_path / "source")
    (folder / "preprocessor_config.json").unlink()
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalise, return_attention_mask=True)
    text = json.dumps({"feature_extractor": extractor.to_dict(), "processor_class": "Wav2Vec2Processor"})
    (folder / "processor_config.json").write_text(text, encoding="utf-8")
    assert AutoFeatureExtractor.from_pretrained(folder).do_normalize == normalise
    expected, logits, model = scores(folder, tmp_path / "out")
    assert model.config.front_end.normalise == normalise
    assert np.abs(expected - logits).max() <= LOGITS * np.abs(expected).max()
    clip = torch.from_numpy(waveforms()["voice 01"])[None]
    if not normalise:
        with torch.no_grad():
            assert np.allclose(theirs.module(clip).logits[0].numpy(), expected, atol=1e-4)
