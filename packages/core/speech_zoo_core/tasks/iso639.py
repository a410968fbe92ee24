"""Language codes (ISO 639): their names, and a user's spelling matched to a checkpoint's labels."""

import difflib
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from iso639 import Lang

LISTED = 20  # labels in an error
SUCCESSORS = {"mo": "ron", "sh": "hbs"}  # of retired codes for which ISO 639-1 names none
OTHER_NAMES = {"sakha": "sah"}  # that ISO 639 lacks
ALIKE = 0.85  # of a label and the name of a language: "Ukranian"


def language(code: str) -> "Lang | None":
    """The language of an ISO 639 code, retired ones among them (iw, jw, sh); None if there is none."""
    from iso639 import Lang  # here, because its tables take a while to read
    from iso639.exceptions import DeprecatedLanguageValue, InvalidLanguageValue

    try:
        return Lang(code)
    except DeprecatedLanguageValue as error:
        current = error.change_to or SUCCESSORS.get(code)
        return Lang(current) if current else None
    except InvalidLanguageValue:
        return None


def language_name(code: str) -> str:
    """The English name of a code without ISO's notes in brackets; the code itself if it is none."""
    entry = language(code.lower())
    return re.sub(r"\s*\(.*\)$", "", entry.name) if entry else code


def all_languages(labels: Sequence[str]) -> bool:
    """Whether labels are languages: all of them codes of ISO 639, and three quarters of these living languages.

    The emotions neu, hap, ang and sad are codes, too: of Neo (constructed), Hupla, Old English (historical) and
    Sandawe; MMS knows Latin, Sanskrit, Esperanto and Interlingua among its many.
    """
    languages = [language(label.lower()) for label in labels]
    living = sum(item is not None and item.type() == "Living" for item in languages)
    return None not in languages and living >= 0.75 * len(languages)


def are_names(labels: Sequence[str]) -> bool:
    """Whether most labels are names of languages, with a country or the like behind: "Arabic", "Chinese_Taiwan"."""
    from iso639 import Lang
    from iso639.exceptions import DeprecatedLanguageValue, InvalidLanguageValue

    known = 0
    for label in labels:
        with suppress(DeprecatedLanguageValue, InvalidLanguageValue):
            known += len(label) > 3 and Lang(label.partition("_")[0]) is not None
    return known > len(labels) / 2


@cache
def _by_name() -> "dict[str, Lang]":
    """Languages by their names in lower case: "greek, modern", "greek"; one with a code of two letters goes first."""
    from iso639 import Lang, iter_langs

    full: dict[str, Lang] = {}
    short: dict[str, Lang] = {}
    for known in sorted(iter_langs(), key=lambda known: bool(known.pt1)):
        for name in (known.name.lower(), *map(str.lower, known.other_names())):
            plain = re.sub(r"\s*\(.*\)$", "", name)
            full |= {name: known, plain: known}
            short[plain.partition(",")[0]] = known
    return short | full | {name: Lang(code) for name, code in OTHER_NAMES.items()}


def _of_label(label: str) -> "Lang | None":
    """The language of a label: a code, or a name, with a country or the like behind ("Chinese_Taiwan")."""
    known = language(label.lower())
    if known is not None or len(label) <= 3:
        return known
    names = _by_name()
    for name in (label.replace("_", " ").lower(), label.partition("_")[0].lower()):
        if name in names:
            return names[name]
    near = difflib.get_close_matches(label.lower(), [name for name in names if names[name].pt1], 1, ALIKE)
    return names[near[0]] if near else None


def match_language(code: str, labels: Sequence[str]) -> list[int]:
    """Indices of the labels that a code of ISO 639 stands for.

    Raises:
        InputError: there is none; says which labels there are, or which one is spelled nearly so.
    """
    code = code.strip()
    if code in labels:
        return [labels.index(code)]
    wanted = language(code.lower())
    known = [_of_label(label) for label in labels]
    if wanted is not None:
        for same in (
            lambda other: other == wanted,
            lambda other: other.macro() == wanted,  # zh: every Chinese that the checkpoint knows
            lambda other: wanted.macro() == other,  # cmn, where the checkpoint says zh
        ):
            if places := [i for i, other in enumerate(known) if other is not None and same(other)]:
                return places
    listed = ", ".join(labels[:LISTED]) + (f" and {len(labels) - LISTED} more" if len(labels) > LISTED else "")
    if wanted is not None:
        raise InputError(f"language {code!r} is {wanted.name}, which this checkpoint does not know; it knows {listed}")
    spellings = {label.lower(): label for label in labels}
    for label, other in zip(labels, known, strict=True):
        if other is not None:
            names = (other.pt1, other.pt3, language_name(label))
            spellings |= {name.lower(): label for name in names if name}
    near = difflib.get_close_matches(code.lower(), spellings, n=1, cutoff=0.6)
    if not near:
        raise InputError(f"language {code!r} is no ISO 639 code; this checkpoint knows {listed}")
    meant = spellings[near[0]]
    raise InputError(f"language {code!r} is no ISO 639 code; did you mean {meant!r} ({language_name(meant)})?")
