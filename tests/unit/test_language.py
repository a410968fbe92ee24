"""What people do with a language model: predict, predict_batch, logits; and which languages a code stands for."""

import copy
import pickle
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_weights import source_weights
from speech_zoo_core.config import from_dict, to_dict
from speech_zoo_core.errors import AudioError, ConfigError, InputError
from speech_zoo_core.tasks import audio_model
from speech_zoo_core.tasks.iso639 import language_name, match_language
from speech_zoo_core.tasks.language import Prediction, check_labels
from speech_zoo_ecapa_tdnn import ModelConfig
from tiny_models import LABELS, LID, RATE, model_of, noise, tiny_model
from wavs import write_wav

pytestmark = pytest.mark.usefixtures("all_is_speech")
CODES = [label.partition(":")[0] for label in LABELS]
# VoxLingua107's labels: ISO 639-1 where there is one, retired codes for Hebrew and Javanese.
VOXLINGUA_LABELS = (
    "ab af am ar as az ba be bg bn bo br bs ca ceb cs cy da de el en eo es et eu fa fi fo fr gl gn gu gv ha haw hi hr "
    "ht hu hy ia id is it iw ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps "
    "pt ro ru sa sco sd si sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi war yi yo zh"
)
VOXLINGUA = VOXLINGUA_LABELS.split()


@cache
def model_with(*labels: str) -> Any:
    """A tiny model that knows these labels."""
    config = replace(LID, id2label={str(i): label for i, label in enumerate(labels)})
    return model_of(config, source_weights(config))


@pytest.fixture
def lid() -> Any:
    return tiny_model("ecapa_lid")


@cache
def clip() -> np.ndarray:
    return noise(RATE)


def softmax(x: Any) -> np.ndarray:
    powers = np.exp(np.array(x, np.float64) - np.max(np.array(x, np.float64)))
    return powers / powers.sum()


# logits, log_probs, labels


def test_labels_are_the_checkpoints_own_codes(lid: Any) -> None:
    assert lid.labels == ["en", "sw", "iw", "jw", "zh", "nn"]
    lid.labels.append("xx")
    assert len(lid.labels) == 6


def test_logits_are_the_models_output(lid: Any) -> None:
    logits = lid.logits(clip(), RATE)
    assert logits.shape == (6,)
    assert logits.dtype == mx.float32
    assert mx.allclose(logits, lid(mx.array(clip()))[0], atol=1e-4)
    assert mx.array_equal(lid.logits((clip(), RATE)), logits)


def test_log_probs_are_normalised(lid: Any) -> None:
    log_probs = lid.log_probs(clip(), RATE)
    assert (log_probs.shape, log_probs.dtype) == ((6,), mx.float32)
    assert float(mx.exp(log_probs).sum()) == pytest.approx(1, abs=1e-5)
    assert np.allclose(np.exp(np.array(log_probs)), softmax(lid.logits(clip(), RATE)), atol=1e-6)


def test_logits_that_are_not_finite_are_an_error() -> None:
    model = model_of(LID, source_weights(LID))
    model.classifier["out"].weight = model.classifier["out"].weight * mx.inf
    for call in (model.logits, model.log_probs, model.predict):
        with pytest.raises(AudioError, match="not finite; load the model with dtype='float32'"):
            call((clip(), RATE))
    with pytest.raises(AudioError, match="not finite"):
        model.predict_batch([clip()], sample_rate=RATE)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_gives_float32_scores(lid: Any, dtype: mx.Dtype) -> None:
    model = model_of(LID, source_weights(LID))
    model.set_dtype(dtype)
    short = clip()[: RATE // 8]
    assert model(mx.array(short)).dtype == dtype
    assert model.logits(short, RATE).dtype == mx.float32
    best = model.predict(short, sample_rate=RATE, top_k=6)
    assert sum(score for _, score in best) == pytest.approx(1, abs=1e-5)
    assert best[0].label == lid.predict(short, sample_rate=RATE)[0].label


# predict


def test_predictions_are_the_softmax_best_first(lid: Any) -> None:
    best = lid.predict(clip(), top_k=6, sample_rate=RATE)
    expected = dict(zip(CODES, softmax(lid.logits(clip(), RATE)), strict=True))
    assert [label for label, _ in best] == sorted(expected, key=lambda code: -expected[code])
    for label, score in best:
        assert isinstance(score, float)
        assert score == pytest.approx(expected[label], rel=1e-4, abs=1e-9)
    assert sum(score for _, score in best) == pytest.approx(1, abs=1e-5)


def test_five_languages_by_default(lid: Any) -> None:
    best = lid.predict((clip(), RATE))
    assert best == lid.predict(clip(), top_k=6, sample_rate=RATE)[:5]
    assert isinstance(best, list)


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (3, 3), (6, 6), (7, 6), (10**9, 6), (np.int64(2), 2)])
def test_how_many_languages(lid: Any, top_k: int, count: int) -> None:
    best = lid.predict(clip(), top_k=top_k, sample_rate=RATE)
    assert len(best) == count
    assert best == lid.predict(clip(), top_k=6, sample_rate=RATE)[:count]


@pytest.mark.parametrize("top_k", [0, -1, True, False, 2.0, "3", None, [2], float("nan")])
def test_a_number_of_languages_that_cannot_be(lid: Any, top_k: Any) -> None:
    for call in (
        lambda: lid.predict(clip(), top_k, None, RATE),
        lambda: lid.predict_batch([clip()], top_k, None, RATE),
    ):
        with pytest.raises(InputError, match="top_k is a positive number of languages") as caught:
            call()
        assert repr(top_k) in str(caught.value)


def test_every_form_of_the_same_clip_gives_the_same_prediction(tmp_path: Path, lid: Any) -> None:
    samples = (clip() * 32767).astype(np.int16)
    write_wav(tmp_path / "a.wav", samples)
    expected = dict(lid.predict(tmp_path / "a.wav"))
    for audio in (
        str(tmp_path / "a.wav"),
        (samples, RATE),
        (mx.array(samples), RATE),
        (np.stack([samples] * 2, 1), RATE),
    ):
        assert dict(lid.predict(audio)) == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_equal_logits_keep_the_order_of_the_labels() -> None:
    weights = source_weights(LID)
    weights |= {
        f"classifier.out.w.{part}": np.zeros_like(weights[f"classifier.out.w.{part}"]) for part in ("weight", "bias")
    }
    best = model_of(LID, weights).predict(clip(), top_k=6, sample_rate=RATE)
    assert [label for label, _ in best] == CODES
    assert [score for _, score in best] == pytest.approx([1 / 6] * 6)


def test_bad_audio_is_refused(tmp_path: Path, lid: Any) -> None:
    front_end = lid.config.front_end
    shortest = round(front_end.seconds(lid.min_frames) * RATE)
    assert lid.predict(noise(shortest), sample_rate=RATE)
    cases = {
        f"too short: {(shortest - 1) / RATE:.3f} s, ecapa_tdnn needs at least {shortest / RATE:.3f} s": noise(
            shortest - 1
        ),
        "holds NaN": np.full(RATE, np.nan, np.float32),
        "no such file.wav does not exist": "no such file.wav",
    }
    for message, audio in cases.items():
        for call in (lid.predict, lid.logits, lid.log_probs):
            with pytest.raises(AudioError, match=message):
                call(audio if isinstance(audio, str) else (audio, RATE))
        with pytest.raises(AudioError, match=message):
            lid.predict_batch([(clip(), RATE), audio if isinstance(audio, str) else (audio, RATE)])


# predict_batch


LENGTHS = [9000, 4000, 12345, 4000, 20000, 700]


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("frames", [0, 60, 16_000])
def test_a_batch_equals_one_at_a_time(monkeypatch: pytest.MonkeyPatch, lid: Any, frames: int) -> None:
    """One by one, in small batches, and in one that is padded: as on a GPU."""
    monkeypatch.setattr(audio_model, "BATCH_SECONDS", frames / 100)
    monkeypatch.setattr(audio_model, "CHUNK_CLIPS", 4)
    clips = [noise(n, seed) for seed, n in enumerate(LENGTHS)]
    together = lid.predict_batch(clips, top_k=6, sample_rate=RATE)
    assert len(together) == len(clips)
    for audio, best in zip(clips, together, strict=True):
        alone = lid.predict(audio, top_k=6, sample_rate=RATE)
        assert dict(best) == pytest.approx(dict(alone), rel=1e-2, abs=1e-6)
        assert best[0].label == alone[0].label


def test_an_empty_batch(lid: Any) -> None:
    assert lid.predict_batch([]) == []


def test_a_batch_takes_a_list(lid: Any) -> None:
    for audio in ("a.wav", Path("a.wav"), clip(), mx.array(clip()), (clip(), RATE)):
        with pytest.raises(AudioError, match="a batch takes a list of clips"):
            lid.predict_batch(audio, sample_rate=RATE)


def test_a_batch_among_some_languages(lid: Any) -> None:
    clips = [noise(RATE, seed) for seed in range(2)]
    for audio, best in zip(clips, lid.predict_batch(clips, 2, ["en", "heb"], RATE), strict=True):
        assert best == lid.predict(audio, 2, ["he", "eng"], RATE)


# languages=


@given(chosen=st.lists(st.sampled_from(CODES), min_size=1, max_size=8), top_k=st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_scores_are_renormalised_over_the_chosen_languages(chosen: list[str], top_k: int) -> None:
    lid = tiny_model("ecapa_lid")
    logits = dict(zip(CODES, np.array(lid.logits(clip(), RATE), np.float64), strict=True))
    among = list(dict.fromkeys(chosen))
    expected = dict(zip(among, softmax([logits[code] for code in among]), strict=True))
    best = lid.predict(clip(), top_k, chosen, RATE)
    assert [label for label, _ in best] == sorted(expected, key=lambda code: -expected[code])[:top_k]
    assert dict(best) == pytest.approx({label: expected[label] for label, _ in best}, rel=1e-3, abs=1e-9)
    if top_k >= len(among):
        assert sum(score for _, score in best) == pytest.approx(1, abs=1e-5)


def test_one_language_is_certain(lid: Any) -> None:
    assert lid.predict(clip(), languages=["jv"], sample_rate=RATE) == [("jw", 1.0)]


def test_the_spelling_and_repetition_of_codes_do_not_matter(lid: Any) -> None:
    expected = lid.predict(clip(), languages=["en", "iw"], sample_rate=RATE)
    for codes in (
        ["eng", "heb"],
        ("heb", "en", "eng", "EN", " en "),
        {"en", "he"},
        ["iw", "iw", "en"],
        {"en": 1, "he": 2},
    ):
        assert lid.predict(clip(), languages=codes, sample_rate=RATE) == expected
    assert lid.predict(clip(), languages=(code for code in ("en", "he")), sample_rate=RATE) == expected
    assert lid.predict(clip(), languages=np.array(["en", "he"]), sample_rate=RATE) == expected


@pytest.mark.parametrize(
    "languages", ["en", "eng,fra", "", b"en", [], (), set(), 5, ["en", 5], [None], [b"en"], [["en"]]]
)
def test_languages_that_are_no_list_of_codes(lid: Any, languages: Any) -> None:
    for call in (lid.predict, lambda clip, **options: lid.predict_batch([clip], **options)):
        with pytest.raises(InputError, match="languages is a list of codes such as"):
            call(clip(), languages=languages, sample_rate=RATE)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("engl", "is no ISO 639 code; did you mean 'en' (English)?"),
        ("English", "is no ISO 639 code; did you mean 'en' (English)?"),
        ("swahilli", "is no ISO 639 code; did you mean 'sw' (Swahili)?"),
        ("", "is no ISO 639 code; this checkpoint knows "),
        ("e\nn", "is no ISO 639 code; "),
        ("x" * 400, "is no ISO 639 code; this checkpoint knows "),
        ("es", "is Spanish, which this checkpoint does not know; it knows "),
        ("nob", "is Norwegian Bokmål, which this checkpoint does not know; it knows "),
        ("qaa", "is no ISO 639 code; "),
    ],
)
def test_an_unknown_language_is_told_with_what_there_is(lid: Any, code: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        lid.predict(clip(), languages=["en", code], sample_rate=RATE)
    message = str(caught.value)
    assert said in message
    assert "did you mean" in message or ", ".join(CODES[:3]) in message
    assert "\n" not in message


# Which labels a code stands for

MATCHES = [  # labels of a checkpoint, a code, the labels that it stands for
    (VOXLINGUA, "en", "en"),
    (VOXLINGUA, "eng", "en"),
    (VOXLINGUA, "ENG", "en"),
    (VOXLINGUA, "ger", "de"),
    (VOXLINGUA, "deu", "de"),
    (VOXLINGUA, "fre", "fr"),
    (VOXLINGUA, "fra", "fr"),
    (VOXLINGUA, "rum", "ro"),
    (VOXLINGUA, "iw", "iw"),
    (VOXLINGUA, "he", "iw"),
    (VOXLINGUA, "heb", "iw"),
    (VOXLINGUA, "jw", "jw"),
    (VOXLINGUA, "jv", "jw"),
    (VOXLINGUA, "jav", "jw"),
    (VOXLINGUA, "in", "id"),
    (VOXLINGUA, "ji", "yi"),
    (VOXLINGUA, "mo", "ro"),
    (VOXLINGUA, "sh", "bs hr sr"),
    (VOXLINGUA, "hbs", "bs hr sr"),
    (VOXLINGUA, "chi", "zh"),
    (VOXLINGUA, "cmn", "zh"),
    (VOXLINGUA, "yue", "zh"),
    (VOXLINGUA, "swh", "sw"),
    (VOXLINGUA, "swa", "sw"),
    (VOXLINGUA, "nb", "no"),
    (VOXLINGUA, "nob", "no"),
    (VOXLINGUA, "nno", "nn"),
    (VOXLINGUA, "pes", "fa"),
    (VOXLINGUA, "arz", "ar"),
    (VOXLINGUA, "zsm", "ms"),
    (["cmn", "yue", "eng"], "zh", "cmn yue"),
    (["cmn", "yue", "eng"], "zho", "cmn yue"),
    (["cmn", "yue", "eng"], "yue", "yue"),
    (["eng", "swh"], "sw", "swh"),
    (["nob", "nno"], "no", "nob nno"),
    (["nob", "nno"], "nor", "nob nno"),
    (["no", "nn"], "nor", "no"),
    (["heb", "jav", "deu"], "iw", "heb"),
    (["heb", "jav", "deu"], "jw", "jav"),
    (["heb", "jav", "deu"], "ger", "deu"),
    (["ger", "fre"], "de", "ger"),
    (["EN", "FR"], "eng", "EN"),
    (["EN", "FR"], "fr", "FR"),
    (["xx-odd", "en"], "xx-odd", "xx-odd"),
    (["Arabic", "Greek", "Frisian"], "ara", "Arabic"),
    (["Arabic", "Greek", "Frisian"], "el", "Greek"),
    (["Arabic", "Greek", "Frisian"], "fy", "Frisian"),
    (["Chinese_China", "Chinese_Taiwan", "Hakha_Chin"], "cmn", "Chinese_China Chinese_Taiwan"),
    (["Chinese_China", "Chinese_Taiwan", "Hakha_Chin"], "cnh", "Hakha_Chin"),
    (["Sakha", "Ukranian", "Mangolian"], "uk", "Ukranian"),
    (["Sakha", "Ukranian", "Mangolian"], "sah", "Sakha"),
    (["Sakha", "Ukranian", "Mangolian"], "Sakha", "Sakha"),
]


@pytest.mark.parametrize(
    ("labels", "code", "expected"), MATCHES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_a_code_stands_for(labels: list[str], code: str, expected: str) -> None:
    assert [labels[i] for i in match_language(code, labels)] == expected.split()


def test_every_label_of_voxlingua_stands_for_itself() -> None:
    assert len(VOXLINGUA) == 107
    for i, code in enumerate(VOXLINGUA):
        assert match_language(code, VOXLINGUA) == [i]
        assert language_name(code) != code


@given(code=st.text(max_size=8), labels=st.lists(st.sampled_from(VOXLINGUA), min_size=1, max_size=5, unique=True))
@settings(max_examples=60, deadline=None)
def test_any_text_is_matched_or_refused(code: str, labels: list[str]) -> None:
    try:
        indices = match_language(code, labels)
    except InputError as error:
        assert any(label in str(error) for label in labels)
    else:
        assert indices == sorted(set(indices))
        assert set(indices) <= set(range(len(labels)))
        assert indices


# Names


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("eng", "English"),
        ("en", "English"),
        ("EN", "English"),
        ("zlm", "Malay"),  # "Malay (individual language)"
        ("sw", "Swahili"),  # "Swahili (macrolanguage)"
        ("el", "Modern Greek"),  # "Modern Greek (1453-)"
        ("iw", "Hebrew"),
        ("jw", "Javanese"),
        ("ger", "German"),
        ("xx", "xx"),
        ("", ""),
    ],
)
def test_the_name_of_a_code(code: str, name: str) -> None:
    assert language_name(code) == name


def test_names_come_from_the_labels_or_from_iso() -> None:
    model = model_with("en: Anglais", "fra", "zlm", "xx: A: B", "qqq")
    names = {p.label: p.name for p in model.predict(clip(), sample_rate=RATE)}
    assert names == {"en": "Anglais", "fra": "French", "zlm": "Malay", "xx": "A: B", "qqq": "qqq"}
    assert model.labels == ["en", "fra", "zlm", "xx", "qqq"]


# Prediction


def test_a_prediction_is_a_pair_with_a_name() -> None:
    english = Prediction("en", 0.75, "English")
    label, score = english
    assert (label, score) == ("en", 0.75) == (english.label, english.score) == (english[0], english[1])
    assert english.name == "English"
    assert english == ("en", 0.75)
    assert hash(english) == hash(("en", 0.75))
    assert len(english) == 2
    assert isinstance(english, tuple)
    assert dict([english]) == {"en": 0.75}
    assert repr(english) == "Prediction(label='en', score=0.75, name='English')"
    assert eval(repr(english), {"Prediction": Prediction}).name == "English"
    assert max(english, Prediction("de", 1.0, "German")) is english  # as pairs compare


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_prediction_survives_pickle_and_copy(protocol: int) -> None:
    english = Prediction("en", 0.75, "English")
    for other in (pickle.loads(pickle.dumps(english, protocol)), copy.copy(english), copy.deepcopy([english])[0]):
        assert type(other) is Prediction
        assert (other, other.label, other.score, other.name) == (english, "en", 0.75, "English")
        assert repr(other) == repr(english)


# id2label


@pytest.mark.parametrize(
    ("id2label", "named"),
    [
        ({}, "keys 0 to"),
        ({"1": "en"}, "keys 0 to 0"),
        ({"0": "en", "2": "fr"}, "keys 0 to 1"),
        ({"0": "en", "01": "fr"}, "keys 0 to 1"),
        ({"0": "en", "one": "fr"}, "keys 0 to 1"),
        ({"0": "en", "1": "fr", "2": "en"}, "'en' twice"),
        ({"0": "en: English", "1": "fr", "2": "en: English"}, "'en"),
        ({"0": "en: English", "1": "en: Anglais"}, "'en"),
        ({"0": "en: English", "1": "en"}, "'en"),
        ({"0": "en", "1": ""}, "1"),
        ({"0": "en", "1": ": French"}, "1"),
    ],
)
def test_labels_with_gaps_or_duplicates(id2label: dict[str, str], named: str) -> None:
    for call in (lambda: check_labels(id2label), lambda: replace(LID, id2label=id2label)):
        with pytest.raises(ConfigError) as caught:
            call()
        assert "id2label" in str(caught.value)
        assert named in str(caught.value)


def test_labels_in_any_order() -> None:
    assert check_labels({"1": "fr", "0": "en: English"}) == ["en: English", "fr"]


@pytest.mark.parametrize("id2label", [["en", "fr"], {"0": 5}, {"0": None}, {"0": ["en"]}, "en", True])
def test_labels_of_a_wrong_type(id2label: Any) -> None:
    with pytest.raises(ConfigError, match="id2label"):
        from_dict(ModelConfig, to_dict(LID) | {"id2label": id2label})
