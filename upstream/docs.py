"""README table and docs entries of mlx-audio."""

from .edits import TEMPLATES
from .tree import Tree

README, INDEX, NAV = "README.md", "docs/models/index.md", "mkdocs.yml"

# Model, what it is, languages, README.
SPK = (
    ("CAM++", "Compact speaker embeddings (3D-Speaker, WeSpeaker)", "Language-agnostic", "spk/models/campplus"),
    (
        "WeSpeaker ResNet",
        "Speaker embeddings: ResNet34, 152, 221, 293",
        "Language-agnostic",
        "spk/models/resnet34",
    ),
    (
        "ECAPA-TDNN",
        "Speaker embeddings (SpeechBrain, WeSpeaker)",
        "Language-agnostic",
        "spk/models/ecapa_tdnn",
    ),
)
LID = (
    (
        "MMS-LID",
        "Meta's language identification, and other Wav2Vec2 classifiers",
        "126 to 4017",
        "lid/models/wav2vec2_cls",
    ),
    ("ECAPA-TDNN VoxLingua107", "SpeechBrain's language identification", "107", "lid/models/ecapa_tdnn_lid"),
)
SECTIONS = (
    (
        "Speaker Embeddings (SPK)",
        "Tell voices apart: one vector for each clip, and whether two are of one speaker.",
        SPK,
    ),
    ("Spoken Language Identification (LID)", "Tell which language is spoken.", LID),
)
REPOSITORY = "https://github.com/Blaizzy/mlx-audio/blob/main/"


def table(rows: tuple[tuple[str, str, str, str], ...], root: str) -> str:
    """The table of models as mlx-audio's README has it."""
    lines = ["| Model | Description | Languages | Repo |", "|-------|-------------|-----------|------|"]
    for name, what, languages, folder in rows:
        lines.append(f"| **{name}** | {what} | {languages} | [README]({root}mlx_audio/{folder}/README.md) |")
    return "\n".join(lines) + "\n"


def add_docs(tree: Tree) -> None:
    """README tables, and where the tree has docs/, their entries; a commit of its own.

    Raises:
        AnchorError: the headings or the navigation are others.
    """
    tables = "".join(f"### {title}\n\n{table(rows, '')}\n" for title, _, rows in SECTIONS)
    tree.before(README, "### Speech-to-Speech (STS)\n", tables)
    message = "docs: list the speaker and language models"
    if tree.has(INDEX):
        entries = ""
        for (title, lead, rows), kind in zip(SECTIONS, ("spk", "lid"), strict=True):
            page = f"docs/models/{kind}/index.md"
            example = (TEMPLATES / page).read_text(encoding="utf-8")
            tree.create(page, f"# {title}\n\n{lead}\n\n{table(rows, REPOSITORY)}\n{example}")
            entries += f"## {title}\n\n{lead}\n\n{table(rows, REPOSITORY)}\n"
            entries += f"[:octicons-arrow-right-24: {kind.upper()} Models]({kind}/index.md)\n\n---\n\n"
        tree.before(INDEX, "## Speech-to-Speech (STS)\n", entries)
        tree.after(
            NAV,
            "    - Voice Activity Detection: models/vad/index.md\n",
            "    - Speaker Embeddings: models/spk/index.md\n    - Language Identification: models/lid/index.md\n",
        )
        message += "\n\nREADME tables, a page for each category, and its place in the navigation."
    else:
        message += "\n\nThis tree has no docs/, so the pages and the navigation are missing here."
    tree.commit(message)
