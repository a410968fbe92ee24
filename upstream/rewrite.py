"""Our modules under mlx-audio's names: which ones a model needs, and their imports rewritten."""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .tree import UpstreamError

ROOT = Path(__file__).resolve().parents[1]
PREFIX = "speech_zoo"
CORE = "speech_zoo_core"


@dataclass(frozen=True)
class Import:
    """One import statement of ours, resolved.

    Attributes:
        node: the statement.
        modules: what each name is imported from: (absolute module, the statement's alias, whether the module itself is
            the name).
    """

    node: ast.Import | ast.ImportFrom
    modules: list[tuple[str, ast.alias, bool]]


def path_of(module: str) -> Path | None:
    """The file of one of our modules; None if there is none."""
    package, *rest = module.split(".")
    folder = ROOT / "packages" / package.removeprefix(f"{PREFIX}_") / package
    stem = folder.joinpath(*rest)
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def imports(module: str, text: str) -> Iterator[Import]:
    """The imports of our own modules, wherever they stand.

    Raises:
        UpstreamError: a name comes from a package's `__init__`, which is not exported.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            ours = [alias for alias in node.names if alias.name.startswith(PREFIX)]
            if ours:
                raise UpstreamError(f"{module}, line {node.lineno}: write `from … import …` for modules of ours")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: -node.level]
                base = ".".join([*parents, base] if base else parents)
            if not base.startswith(PREFIX):
                continue
            found = []
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                if path_of(inner) is not None:
                    found.append((inner, alias, True))
                elif "." in base:
                    found.append((base, alias, False))
                else:
                    raise UpstreamError(f"{module}, line {node.lineno}: {alias.name} comes from {base}/__init__.py")
            yield Import(node, found)


def closure(modules: Iterable[str], without: Iterable[str] = ()) -> list[str]:
    """The modules and all of ours that they import, sorted; those in `without` are not followed."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        if module in without:
            continue
        for statement in imports(module, source(module)):
            waiting += [name for name, _, _ in statement.modules]
    return sorted(found)


def source(module: str) -> str:
    """The text of one of our modules."""
    path = path_of(module)
    if path is None:
        raise UpstreamError(f"there is no module {module}")
    return path.read_text(encoding="utf-8")


def rewritten(module: str, names: dict[str, str]) -> str:
    """The text of a module of ours with its imports under new names.

    Args:
        names: our module to mlx-audio's, for every module that is exported.

    Raises:
        UpstreamError: it imports a module of ours that is not exported.
    """
    text = source(module)
    lines = text.splitlines(keepends=True)
    for statement in sorted(imports(module, text), key=lambda item: -item.node.lineno):
        node = statement.node
        new: dict[str, list[str]] = {}
        for name, alias, whole in statement.modules:
            if name not in names:
                raise UpstreamError(f"{module}, line {node.lineno}: {name} is not exported")
            base, _, last = names[name].rpartition(".")
            bound = alias.asname or alias.name
            spelled = (last if last == bound else f"{last} as {bound}") if whole else _spelled(alias)
            new.setdefault(base if whole else names[name], []).append(spelled)
        indent = " " * node.col_offset
        assert node.end_lineno is not None
        tail = lines[node.end_lineno - 1].encode()[node.end_col_offset or 0 :].decode()  # a comment, the line break
        parts = [f"{indent}from {base} import ({', '.join(items)})" for base, items in sorted(new.items())]
        lines[node.lineno - 1 : node.end_lineno] = ["\n".join(parts) + tail]
    return "".join(lines)


def _spelled(alias: ast.alias) -> str:
    return f"{alias.name} as {alias.asname}" if alias.asname else alias.name
