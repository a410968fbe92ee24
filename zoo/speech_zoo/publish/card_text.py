"""What a model card says: one template, filled with the facts of a checkpoint and of its catalogue entry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from speech_zoo_core.errors import ConfigError
from speech_zoo_core.hub import REPO_ID

from ..catalogue.entries import Entry, Licence, licences, proved, targets
from .export import OUTPUTS
from .parity import Parity
from .parity_table import parity_table

ORGANISATION = "your-org"  # stands in the snippets as long as nobody named the repo
PIPELINES = {  # the Hub has no tag for speaker embeddings
    "speaker-embedding": "feature-extraction",
    "language-identification": "audio-classification",
    "audio-classification": "audio-classification",
    "audio-tagging": "audio-classification",
    "audio-regression": "audio-classification",
    "speaker-segmentation": "voice-activity-detection",
}
TAGS = {
    "speaker-embedding": ["speaker-embedding", "speaker-verification", "speaker-recognition"],
    "language-identification": ["language-identification", "spoken-language-identification"],
    "audio-classification": [],
    "audio-tagging": ["audio-tagging"],
    "audio-regression": ["audio-regression"],
    "speaker-segmentation": ["speaker-segmentation", "speaker-diarization", "overlapped-speech-detection"],
}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What is known of the conversion itself; of a catalogue entry that nobody converted yet, hardly anything.

    Attributes:
        config: its `config.json`; empty without a conversion.
        parity: its `parity.json`; None if it was not compared.
        not_compared_because: why `parity` is None.
        exports: the variants that lie in it beside MLX's weights: "onnx", "coreml".
    """

    precision: str = "float32"
    config: dict[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    size: int | None = None
    parity: Parity | None = None
    not_compared_because: str = "no parity report is kept of it; `speech-zoo check` on a conversion writes one"
    exports: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Wording:
    """What a person says of a checkpoint of their own.

    Attributes:
        repo: `org/name` that the usage snippets load.
        title: of the card; default: the catalogue's name, else the folder's.
        base_model: the original's repo on the Hub.
        languages: ISO 639 codes.
        trust_name: take a local copy for the catalogue's entry although nothing proves it.
    """

    repo: str | None = None
    title: str | None = None
    base_model: str | None = None
    languages: Sequence[str] = ()
    trust_name: bool = False


PLAIN = Wording()


def fill(checkpoint: Checkpoint, name: str, entry: Entry | None, licence_id: str, wording: Wording = PLAIN) -> str:
    """The card of a checkpoint that is called `name`.

    Raises:
        ConfigError: the licence is not known.
    """
    licence = _licence(licence_id)
    config, source = checkpoint.config, checkpoint.config.get("source") or {}
    task = config.get("task") or (entry.task if entry else "")
    variants = targets(entry) if entry else {}
    known = variants.get(checkpoint.precision) or (f"{entry.target}-mlx-{checkpoint.precision}" if entry else name)
    title = wording.title or known
    takes_audio = entry.takes_audio if entry else config.get("front_end") is not None
    repo = wording.repo or f"{ORGANISATION}/{title}"
    trusted = entry is None or not config or wording.trust_name or proved(entry, source)
    what = entry.summary if entry else f"{task.replace('-', ' ')} with {config['model_type']}"
    return _template().render(
        metadata=_metadata(checkpoint, title, task, entry, licence_id, wording, trusted),
        title=title,
        summary=what[0].upper() + what[1:],
        origin=wording.base_model or _origin(source, entry) if trusted else "a local copy",
        doubt="" if trusted or entry is None else f"Nothing proves that this copy is {entry.origin}: {_doubt(entry)}.",
        rows=_rows(checkpoint, task, entry),
        repo=repo,
        exports=checkpoint.exports if takes_audio else (),
        exported=repo if config or entry is None else f"{ORGANISATION}/{entry.target}-mlx",
        gives=OUTPUTS.get(task, "logits"),
        sample_rate=(config.get("front_end") or {}).get("sample_rate", 16000),
        imports=[] if takes_audio else ["import mlx.core as mx"],
        usage=_usage(task, takes_audio, config.get("feat_dim", 2048)),
        commands=_commands(task, takes_audio, repo),
        parity=None if checkpoint.parity is None else parity_table(checkpoint.parity),
        not_compared_because=checkpoint.not_compared_because,
        metrics=entry.metrics if entry and trusted else [],
        limits=_limits(checkpoint, task, takes_audio, entry),
        provenance=_provenance(source, entry, checkpoint.precision, trusted),
        variants=list(variants.items()) if trusted else [],
        licence=licence,
        citation=entry.citation if entry else None,
    )


def _doubt(entry: Entry) -> str:
    unknown = [file for file, digest in entry.files.items() if digest is None]
    return f"the SHA-256 of the published {', '.join(unknown)} is not known" if unknown else "its files are others"


def _origin(source: Mapping[str, Any], entry: Entry | None) -> str:
    repo = _repo(source, entry)
    if repo is not None:
        return f"[{repo}](https://huggingface.co/{repo})"
    return entry.origin if entry else _line(source.get("form", "a local checkpoint"))


def _repo(source: Mapping[str, Any], entry: Entry | None) -> str | None:
    """The original on the Hub: as the conversion recorded it, else as the catalogue knows it."""
    repo = str(source.get("repo") or (entry.repo if entry else None))
    return repo if REPO_ID.fullmatch(repo) else None


def _licence(licence_id: str) -> Licence:
    if licence_id not in licences():
        raise ConfigError(f"the licence {licence_id!r} is not known; known are {', '.join(licences())}")
    return licences()[licence_id]


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    environment.filters["cell"] = lambda value: _line(value).replace("|", "\\|")
    return environment.from_string(Path(__file__).with_name("card.md.j2").read_text(encoding="utf-8"))


def _line(value: Any) -> str:
    """Text that cannot leave its line."""
    return " ".join(str(value).split())


def _code(value: Any) -> str:
    return "`" + _line(value).replace("`", "'") + "`"


def _metadata(
    checkpoint: Checkpoint, title: str, task: str, entry: Entry | None, licence: str, wording: Wording, trusted: bool
) -> str:
    """The YAML block that the Hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    base = wording.base_model or _repo(checkpoint.config.get("source") or {}, entry if trusted else None)
    results = [
        EvalResult(
            task_type=PIPELINES[task],
            task_name=task.replace("-", " "),
            dataset_type=metric.dataset.lower().replace(" ", "_"),
            dataset_name=f"{metric.dataset} {metric.split}",
            dataset_split=metric.split,
            metric_type=metric.metric.split(",")[0].split(" (")[0].lower().replace(" ", "_"),
            metric_name=metric.metric,
            metric_value=metric.value,
            source_name="published by the authors of the original" if url else None,
            source_url=url,
        )
        for metric in (entry.metrics if entry and trusted else [])
        for url in [metric.source if metric.source.startswith("https://") else None]
    ]
    data = ModelCardData(
        license=licence,
        language=list(wording.languages) or (entry.languages if entry else None) or None,
        library_name="mlx-audio",
        pipeline_tag=PIPELINES[task],
        tags=[
            "mlx",
            "mlx-speech-zoo",
            "speech",
            *TAGS[task],
            *(checkpoint.exports if checkpoint.precision == "float32" else []),
        ],
        datasets=(entry.datasets if entry else None) or None,
        base_model=base,
        base_model_relation="quantized" if base and checkpoint.precision.endswith("-bit") else None,
        model_name=title if results else None,
        eval_results=results or None,
    )
    return data.to_yaml(line_break="\n")


def _rows(checkpoint: Checkpoint, task: str, entry: Entry | None) -> list[tuple[str, str]]:
    """The table of facts; a fact that is not known has no row."""
    config = checkpoint.config
    front_end = config.get("front_end") or {}
    labels = list(config.get("id2label", {}).values())
    shown = f"{len(labels)}: {', '.join(labels)}" if len(labels) <= 20 else f"{len(labels)}"
    rows = [
        ("task", task.replace("-", " ")),
        ("architecture", f"`{config.get('model_type') or (entry.model_type if entry else '')}`"),
        ("precision", checkpoint.precision if config or checkpoint.parity else ""),
        ("parameters", f"{checkpoint.parameters / 1e6:.2f} million" if checkpoint.parameters else ""),
        ("size", f"{checkpoint.size / 1e6:.1f} MB" if checkpoint.size else ""),
        ("embedding", f"{config['embed_dim']} values" if task == "speaker-embedding" and "embed_dim" in config else ""),
        ("labels", shown if labels else ""),
        ("sample rate", f"{front_end['sample_rate']} Hz; other rates are resampled" if front_end else ""),
        ("trained on", entry.training_data if entry else ""),
    ]
    return [(label, value) for label, value in rows if value]


def _usage(task: str, takes_audio: bool, width: int) -> str:
    if not takes_audio:
        return f"x = mx.random.normal((1, 50, {width}))  # yours: sums of codebook embeddings\nprint(model(x))"
    if task == "speaker-embedding":
        return 'print(model.embed("a.wav"))\nprint(model.verify("a.wav", "b.wav"))'
    if task == "speaker-segmentation":
        return 'print(model.speakers(model.log_probs("a.wav")))'
    if task == "audio-regression":
        return 'print(dict(zip(model.labels, model.measure("a.wav").tolist())))'
    return 'print(model.predict("a.wav", top_k=3))'


def _commands(task: str, takes_audio: bool, repo: str) -> list[str]:
    if task == "speaker-embedding" and takes_audio:
        return [f"speech-zoo embed a.wav --model {repo}", f"speech-zoo verify a.wav b.wav --model {repo}"]
    if task == "language-identification":
        return [f"speech-zoo lid a.wav --top 3 --model {repo}"]
    return [f"speech-zoo info {repo}"]


def _limits(checkpoint: Checkpoint, task: str, takes_audio: bool, entry: Entry | None) -> list[str]:
    limits = [entry.limits] if entry and entry.limits else []
    threshold = checkpoint.config.get("threshold", entry.threshold if entry and not checkpoint.config else None)
    if threshold is not None:
        chosen = entry.threshold_from if entry and entry.threshold == threshold else None
        how = f"How it was chosen: {chosen}." if chosen else "How it was chosen is not known."
        limits.append(
            f'`verify` says "same speaker" from a cosine of {threshold} on. {how} Choose your own on pairs of your own '
            "recordings before you rely on it."
        )
    if takes_audio and task != "speaker-segmentation":
        limits.append("Silence and clips that are too short are errors, never an answer.")
    if checkpoint.parity is None:
        limits.append("Not compared with the original: see above.")
    limits += [
        f"Not compared: {_line(what)}." for what in (checkpoint.parity.not_compared if checkpoint.parity else [])
    ]
    if checkpoint.precision.endswith("-bit"):
        limits.append(f"Linear layers are quantized to {checkpoint.precision.removesuffix('-bit')} bits.")
    limits.append("Speed was not measured.")
    return limits


def _provenance(source: Mapping[str, Any], entry: Entry | None, precision: str, trusted: bool) -> list[tuple[str, str]]:
    """Where the weights come from: as the conversion recorded it, else as the catalogue expects it."""
    hashes: Any = source.get("sha256") or (entry.files if entry and not source else {})
    files = list(hashes.items()) if isinstance(hashes, dict) else []
    revision = f" at revision {_code(source['revision'])}" if "revision" in source else ""
    rows = [
        ("original", entry.origin if entry and trusted else ""),
        ("a local copy", f"not proved to be {entry.origin}" if entry and not trusted else ""),
        ("repo", f"{_origin(source, entry)}{revision}" if trusted and _repo(source, entry) else ""),
        ("form", _line(source.get("form", ""))),
        *(("file", _code(name) + (f", SHA-256 {_code(digest)}" if digest else "")) for name, digest in files),
        ("converted with", _line(source.get("converter", ""))),
        (
            "changed",
            "names and layout of the tensors; normalisation that is constant at inference (BatchNorm, weight norm) "
            f"folded where the original has it; what only training needs dropped; stored as {precision}",
        ),
    ]
    return [(label, value) for label, value in rows if value]
