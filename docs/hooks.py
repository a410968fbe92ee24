"""What the site takes from elsewhere: README.md and its like, and the help of the command from the command."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FILES = {"index.md": "README.md", "adding-a-family.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
PAGES = {file: page for page, file in FILES.items()}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill the pages that hold nothing of their own, or only an introduction."""
    if file := FILES.get(page.file.src_uri):
        text = (ROOT / file).read_text(encoding="utf-8").replace('src="docs/', 'src="')
        return re.sub(r"\[([^]\n]+)\]\(([^)\s]+)\)", _link, text)
    if page.file.src_uri == "command-line.md":
        return f"{markdown}\n{command_help()}"
    return markdown


def command_help() -> str:
    """The help of every command, as Markdown, one heading below the page's."""
    arguments = [sys.executable, "-m", "typer", "speech_zoo.cli.main", "utils", "docs", "--name", "speech-zoo"]
    text = subprocess.run(arguments, check=True, capture_output=True, encoding="utf-8").stdout
    _, *commands = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    return "".join(commands)


def _link(match: re.Match[str]) -> str:
    """A link from the top folder, as it reads from within docs/; of what the site lacks, the text alone."""
    text, target = match.groups()
    target = PAGES.get(target, target.removeprefix("docs/"))
    if "://" in target or target.startswith("#") or (ROOT / "docs" / target).is_file():
        return f"[{text}]({target})"
    return text
