"""Machine code is kept, found again, made anew where it is stale, and never a reason to fail."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numba import config
from numba.core import caching

from sluice.domain import compiled
from sluice.domain.policy import rules
from sluice.errors import Misconfigured

SOURCE = """from sluice.domain.compiled import entry


@entry
def add(a, b):
    return a + b
"""
Make = Callable[[str], Any]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a fresh function ``add`` from a module's text; its machine code goes to tmp_path."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(compiled._Cache, "warned", False)

    def make(text: str) -> Any:
        file = tmp_path / "little.py"
        file.write_text(text)
        spec = importlib.util.spec_from_file_location("little", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        exec(compile(file.read_text(), file, "exec"), module.__dict__)
        return module.add

    return make


def found(function: Any) -> bool:
    """Calls it; whether its machine code was found."""
    assert function(1, 2) == 3
    return sum(function.stats.cache_hits.values()) == 1


def test_what_is_kept_holds_nothing_that_another_compilation_would_not(
    make: Make, tmp_path: Path
) -> None:
    """Numba's notes of variables are in another order each time: two images would differ."""
    make(SOURCE)(1, 2)
    (kept,) = (tmp_path / "cache").rglob("*.nbc")
    assert b"# --- LINE" not in kept.read_bytes()
    assert found(make(SOURCE))


def test_machine_code_is_kept_and_found(make: Make, tmp_path: Path) -> None:
    assert not found(make(SOURCE))
    assert found(make(SOURCE))
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [compiled.FOLDER.name]


def test_a_changed_file_is_compiled_anew(make: Make) -> None:
    assert not found(make(SOURCE))
    assert not found(make(SOURCE + "# a number below the function, say\n"))


@pytest.mark.parametrize("what", ["*.nbi", "*.nbc"])
def test_a_file_that_was_cut_off_is_compiled_anew_and_mended(
    make: Make, tmp_path: Path, what: str
) -> None:
    assert not found(make(SOURCE))
    (file,) = (tmp_path / "cache").rglob(what)
    file.write_bytes(file.read_bytes()[:-20])
    assert not found(make(SOURCE))
    assert found(make(SOURCE))


def test_a_folder_that_cannot_be_there_is_said_once_and_stops_nothing(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file, so that nothing can lie below it")
    with caplog.at_level(logging.WARNING, "sluice"):
        assert not found(make(SOURCE))
        assert not found(make(SOURCE))
    (record,) = caplog.records
    assert record.getMessage() == "kernel_compiled_in_memory"
    assert record.fields["function"] == "add"
    assert "NUMBA_CACHE_DIR" in record.fields["fix"]


def test_another_numba_is_refused_by_the_name_that_it_lacks() -> None:
    compiled.check_numba(caching)
    held = {name: getattr(caching, name) for name in compiled.USES["caching"]}
    compiled.check_numba(SimpleNamespace(**held))
    for name in held:
        less = SimpleNamespace(**{k: v for k, v in held.items() if k != name})
        with pytest.raises(Misconfigured, match=name):
            compiled.check_numba(less)
    less = SimpleNamespace(**held | {"FunctionCache": object})
    with pytest.raises(Misconfigured, match=r"FunctionCache\._impl_class"):
        compiled.check_numba(less)


def test_every_function_is_compiled_by_our_decorators() -> None:
    source = Path(compiled.__file__).parents[2]
    using = {p.name for p in source.rglob("*.py") if "njit" in p.read_text()}
    assert using == {"compiled.py"}


def test_rules_call_nothing_that_their_own_file_does_not_hold() -> None:
    own = {"_holds", "judge"}
    for name in own:
        code = getattr(rules, name).py_func.__code__
        used = {n for n in code.co_names if not isinstance(vars(rules).get(n, 0), int)}
        assert {n for n in used if n in vars(rules)} <= own | {"np"}
    assert rules.np is np
