"""The ordinary run is the same each time, and no test takes settings past its profile."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import tree

TESTS = Path(__file__).parents[1]
THEIR_PLACE = {TESTS / "conftest.py", TESTS / "examples.py", Path(__file__)}
IMPORTED = re.compile(r"^\s*(?:from|import) hypothesis\b[^\n]*\bsettings\b", re.MULTILINE)


def test_the_ordinary_profile_is_the_one_of_a_run_that_names_none(pytestconfig: pytest.Config):
    named = pytestconfig.getoption("--hypothesis-profile")
    assert settings.get_current_profile_name() == (named or "ordinary")
    assert settings.get_profile("ordinary").derandomize


def test_settings_are_made_in_one_place() -> None:
    """A settings object made elsewhere could make an ordinary run random."""
    files = {TESTS.parent / name for name in tree.files("tests", kinds={".py"})}
    made = {file for file in files if IMPORTED.search(file.read_text())}
    assert made == THEIR_PLACE
    reached = {file for file in files if "hypothesis.settings" in file.read_text()}
    assert reached <= THEIR_PLACE
