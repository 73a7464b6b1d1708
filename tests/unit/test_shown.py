"""Nothing a stranger wrote acts on who reads it."""

from __future__ import annotations

import ast
import json
import unicodedata
from pathlib import Path

import pytest

from sluice.shown import ascii_json, named, shown, shown_lines, without_long_digits

HOSTILE = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x61C, 0x200B, 0x200E, 0x2028]))
HOSTILE += (
    "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\ud800\udc80\udfff\U000e0041"
)


@pytest.mark.parametrize("char", HOSTILE)
def test_each_character_that_acts_is_written_out(char: str) -> None:
    written = shown(f"a{char}b")
    assert written.startswith("a\\")
    assert written.endswith("b")
    assert written.isascii()
    assert written.isprintable()


def test_of_all_characters_only_those_that_print_are_left() -> None:
    for code in range(0x110000):
        for char in shown(chr(code)):
            assert unicodedata.category(char)[0] not in "C"
            assert char not in "\u2028\u2029"


def test_ordinary_text_of_any_script_stays() -> None:
    for text in ("", "plain ~ text", "Łódź, 東京, 🙂", "a\\x1b"):
        assert shown(text) == text


def test_a_long_text_is_cut_and_says_so() -> None:
    assert shown("x" * 10, 5) == "xxxx…"
    assert shown("x" * 5, 5) == "xxxxx"
    assert len(shown("\x1b" * 10, 5)) == 5


def test_a_line_end_of_ours_stays_and_none_can_look_like_a_line_of_ours() -> None:
    assert shown_lines("one\ntwo\r\x1b[2J") == "one\n  two\\r\\x1b[2J"


def test_json_says_the_same_in_ascii() -> None:
    for text in (HOSTILE.encode("utf-8", "ignore").decode(), "Łódź\U0001f600", "plain"):
        raw = json.dumps({"a": text}, ensure_ascii=False)
        assert json.loads(ascii_json(raw)) == {"a": text}
        assert ascii_json(raw).isascii()
        assert ascii_json(raw).isprintable()


@pytest.mark.parametrize("name", ["colour", "a", "_x", "card-token.v2", "A1_b2"])
def test_what_looks_like_a_name_is_named(name: str) -> None:
    assert named(name) == f"`{name}`"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "4111",
        "a b",
        "a\n",
        "a\x1b[2J",
        "x" * 65,
        "a4111111111111111",
        "４x",
        "é",
        "a`b",
        "\ud800",
    ],
)
def test_what_does_not_is_not_repeated(name: str) -> None:
    assert named(name) == "(its name is none)"


def test_no_number_of_thirteen_digits_and_more_stands_in_an_error() -> None:
    assert without_long_digits("bad '4111-1111 1111--1111' in line 12") == "bad '…' in line 12"
    assert without_long_digits("at 123456789012") == "at 123456789012"


def test_a_verb_says_everything_through_one_module() -> None:
    for path in Path("src/sluice/cli").glob("*.py"):
        tree = ast.parse(path.read_text())
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        said = {ast.unparse(call) for call in calls} & {"click.echo", "click.secho", "print"}
        if path.name == "output.py":
            assert said == {"click.echo"}
        elif path.name == "progress.py":
            assert "text = shown(text)" in path.read_text()
        else:
            assert said == set(), path
