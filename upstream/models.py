"""Our models as native ones of mlx-audio: modules, imports rewritten, with tests whose numbers come from ours."""

import re
from dataclasses import dataclass

from .edits import TEMPLATES, create_from_template
from .goldens import goldens
from .rewrite import CORE, closure, rewritten
from .tree import Tree, UpstreamError

SHARED = "mlx_audio.voice_id"
WRITTEN_ANEW = {f"{CORE}.errors"}  # stands in templates/, as mlx-audio's users expect it
TYPES = {"resnet34": "spk", "campplus": "spk", "ecapa_tdnn": "spk", "wav2vec2_cls": "lid"}
GOLDEN = re.compile(r"^(?P<head>\s*\w+ = ).*?  # GOLDEN (?P<key>[\w.]+)$", re.MULTILINE)
LICENCE = """
Code from mlx-speech-zoo, which is under Apache-2.0; mlx-audio is under MIT. The
author settles that before this is submitted."""

# What differs upstream in our own sources: (module, from, to).
ADAPTED = [
    ("tasks", "class SpeakerConfig:\n", "class SpeakerConfig(NativeConfig):\n"),
    ("tasks", "pass threshold=… (--threshold), or", "pass threshold=…, or"),
    ("tasks", "load the model with dtype='float32'", "call model.set_dtype(mx.float32) first"),
    ("language", "load the model with dtype='float32'", "call model.set_dtype(mx.float32) first"),
    (
        "language",
        "    from iso639 import Lang  # here, because its tables take a while to read\n",
        """    try:
        from iso639 import Lang  # here, because its tables take a while to read
    except ImportError:  # comes with the extra mlx-audio[lid]
        return None
""",
    ),
    (
        "language",
        '    what = f"is {wanted.name}',
        """    if find_spec("iso639") is None:
        raise InputError(f"language {code!r} is no label of this checkpoint; other codes need iso639-lang installed")
    what = f"is {wanted.name}""",
    ),
]


@dataclass(frozen=True)
class Family:
    """What one commit adds.

    Attributes:
        model_type: ours.
        kind: the category of mlx-audio.
        title: for the commit.
        tests: the test files, under `mlx_audio/`.
        more: other files from the templates, under `mlx_audio/`.
        remapped: entries for the categories' MODEL_REMAPPING.
        also: for the commit message.
    """

    model_type: str
    kind: str
    title: str
    tests: tuple[str, ...]
    more: tuple[str, ...] = ()
    remapped: tuple[tuple[str, str], ...] = ()
    also: str = ""


FAMILIES = (
    Family(
        "resnet34",
        "spk",
        "add WeSpeaker's ResNet speaker embeddings",
        ("spk/tests/test_resnet34.py",),
        remapped=(("spk", "resnet34"),),
        also="ResNet34, 152, 221 and 293 by configuration.",
    ),
    Family(
        "campplus",
        "spk",
        "add CAM++ speaker embeddings",
        ("spk/tests/test_campplus.py",),
        remapped=(("spk", "campplus"),),
        also="3D-Speaker's and WeSpeaker's, which differ in features and pooling.",
    ),
    Family(
        "ecapa_tdnn",
        "spk",
        "add ECAPA-TDNN for speakers and for languages",
        ("spk/tests/test_ecapa_tdnn.py", "lid/tests/test_ecapa_tdnn_lid.py"),
        ("lid/models/ecapa_tdnn_lid/__init__.py", "lid/models/ecapa_tdnn_lid/README.md"),
        (("spk", "ecapa_tdnn"), ("lid", "ecapa_tdnn_lid")),
        """SpeechBrain's and WeSpeaker's dialects by configuration. lid/models/ecapa_tdnn
stays for the checkpoints that it handles; those whose config states a task come
here.""",
    ),
    Family(
        "wav2vec2_cls",
        "lid",
        "add Wav2Vec2 classifiers: MMS-LID and others",
        ("lid/tests/test_wav2vec2_cls.py",),
        remapped=(("lid", "wav2vec2_cls"),),
        also="""Attention masks, batches of different length, adapters, weighted layer sums.
Imports no speech-to-text model. lid/models/wav2vec2 stays for the checkpoints
that it handles.""",
    ),
)


def new_names() -> dict[str, str]:
    """Our module to mlx-audio's, for all that is exported: the models and what they import."""
    roots = {f"speech_zoo_{kind}.model": f"mlx_audio.{place}.models.{kind}.{kind}" for kind, place in TYPES.items()}
    names = dict(roots)
    for module in closure(roots, without=WRITTEN_ANEW):
        package, _, rest = module.partition(".")
        if module in roots:
            continue
        if package == CORE:
            names[module] = f"{SHARED}.{rest}"
        else:  # a module beside model.py
            kind = package.removeprefix("speech_zoo_")
            names[module] = f"mlx_audio.{TYPES[kind]}.models.{kind}.{rest}"
    return names


def add_models(tree: Tree) -> None:
    """A commit for the shared modules, and one for each family.

    Raises:
        AnchorError: the source is another.
        UpstreamError: our own sources are not as the export expects them.
    """
    names = new_names()
    for module, new in names.items():
        if new.startswith(f"{SHARED}.") and module not in WRITTEN_ANEW:
            tree.create(_path(new), adapted(module, names))
    create_from_template(
        tree, *(f"mlx_audio/voice_id/{name}.py" for name in ("__init__", "errors", "native", "tests/__init__"))
    )
    create_from_template(tree, "mlx_audio/voice_id/tests/tiny.py")
    add_test(tree, "mlx_audio/voice_id/tests/test_features.py")
    _extra(tree)
    tree.commit(
        f"""feat: add what speaker and language models share

Features (the fbanks of Kaldi and of SpeechBrain), convolutions that are fast on
a CPU, masked batches, embedding, verification and prediction. The extra
mlx-audio[lid] brings the names of languages; nothing else is new to install.
{LICENCE}"""
    )
    for family in FAMILIES:
        add_family(tree, family, names)


def add_family(tree: Tree, family: Family, names: dict[str, str]) -> None:
    """One model with its tests, README and entries in MODEL_REMAPPING, as a commit."""
    kind = family.model_type
    folder = f"mlx_audio/{family.kind}/models/{kind}"
    for module, new in names.items():
        if module.startswith(f"speech_zoo_{kind}."):
            tree.create(_path(new), adapted(module, names))
    create_from_template(tree, f"{folder}/__init__.py", f"{folder}/README.md")
    create_from_template(tree, *(f"mlx_audio/{name}" for name in family.more))
    for name in family.tests:
        add_test(tree, f"mlx_audio/{name}")
    for category, model_type in family.remapped:
        path, entry = f"mlx_audio/{category}/utils.py", f'    "{model_type}": "{model_type}",\n'
        if "MODEL_REMAPPING = {}\n" in tree.read(path):
            tree.replace(path, "MODEL_REMAPPING = {}\n", f"MODEL_REMAPPING = {{\n{entry}}}\n")
        else:
            tree.after(path, "MODEL_REMAPPING = {\n", entry)
    tree.commit(f"feat({family.kind}): {family.title}\n\n{family.also}\n{LICENCE}")


def adapted(module: str, names: dict[str, str]) -> str:
    """A module of ours as it goes upstream.

    Raises:
        UpstreamError: a place that differs upstream is not found.
    """
    text = rewritten(module, names)
    package, _, rest = module.partition(".")
    changes = [(old, new) for name, old, new in ADAPTED if package == CORE and name == rest]
    if rest == "model":
        speaker = "SpeakerEmbedding" in text
        base = "NativeSpeakerModel" if speaker else "NativeModel"
        changes.append(("class Model(nn.Module, ", f"class Model({base}, "))
        if not speaker:
            changes.append(("class ModelConfig:\n", "class ModelConfig(NativeConfig):\n"))
    for old, new in changes:
        if text.count(old) != 1:
            raise UpstreamError(f"{module}: {old!r} stands {text.count(old)} times; upstream/models.py expects it once")
        text = text.replace(old, new)
    needed = [name for name in ("NativeConfig", "NativeModel", "NativeSpeakerModel") if f"({name}" in text]
    extra = f"from {SHARED}.native import {', '.join(needed)}\n" if needed else ""
    if "find_spec(" in text and "import find_spec" not in text:
        extra += "from importlib.util import find_spec\n"
    first = text.index("import mlx.core as mx\n")
    return text[:first] + extra + text[first:]


def add_test(tree: Tree, path: str) -> None:
    """A test from the templates, with its numbers filled in."""
    text = (TEMPLATES / path).read_text(encoding="utf-8")

    def filled(found: re.Match[str]) -> str:
        value = goldens()[found["key"]]
        return found["head"] + (f"np.array({value!r})" if "np.array(" in found[0] else repr(value))

    tree.create(path, GOLDEN.sub(filled, text))


def _path(module: str) -> str:
    return module.replace(".", "/") + ".py"


def _extra(tree: Tree) -> None:
    """The extra for the names of languages."""
    tree.before(
        "pyproject.toml",
        "# Server dependencies\nserver = [\n",
        """# LID: names of languages, and other codes than the checkpoint's own
lid = [
    "iso639-lang>=2.6",
]

""",
    )
    tree.after("pyproject.toml", "\nall = [\n", '    "iso639-lang>=2.6",\n')
