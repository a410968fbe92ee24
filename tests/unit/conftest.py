"""What several unit tests share."""

from functools import cache
from importlib.metadata import entry_points
from typing import Any

import pytest
from speech_zoo_core import registry


@cache
def _found_once(group: str) -> Any:
    return entry_points(group=group)


@pytest.fixture
def types_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding the registered types takes longer than to read a tiny checkpoint, so it is done once for all tests."""
    monkeypatch.setattr(registry, "entry_points", _found_once)
