"""Text of strangers, made safe where a person or a program reads it.

A terminal takes an ESC for an order, a log reader a line end for a new line, an eye an override of
direction for another word. So what came from outside is shown with such characters written out:
controls, formats, lone surrogates, separators of lines, and what Unicode has not assigned.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

NAME_MAX: Final = 64
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_DIGITS_MAX: Final = 8
_PLAIN = re.compile(r"[ -~]*")
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_LONG_DIGITS = re.compile(r"[0-9](?:[^0-9A-Za-z]{0,2}[0-9]){11,}[0-9]")


def shown(text: str, most: int | None = None) -> str:
    """One line that changes nothing around it. most: characters at most; a cut ends with ``…``.

    >>> print(shown("a\\x1b[2Jb\\r\\n\\u202ec\\udc80"))
    a\\x1b[2Jb\\r\\n\\u202ec\\udc80
    >>> shown("Łódź", 3)
    'Łó…'
    """
    if not _PLAIN.fullmatch(text):
        text = "".join(map(_escaped, text))
    if most is not None and len(text) > most:
        return text[: most - 1] + "…"
    return text


def shown_lines(text: str) -> str:
    """The same of a text that has lines of ours; each but the first is set in.

    >>> shown_lines("not YAML:\\nline 3\\x1b")
    'not YAML:\\n  line 3\\\\x1b'
    """
    return "\n  ".join(map(shown, text.split("\n")))


def ascii_json(text: str) -> str:
    """JSON as it was, with everything but visible ASCII and blanks as escapes of JSON.

    >>> ascii_json('{"a": "\\u202e\\U0001f600\\x7f"}')
    '{"a": "\\\\u202e\\\\ud83d\\\\ude00\\\\u007f"}'
    """
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(c if " " <= c <= "~" or c in "\n\t" else _json_escaped(c) for c in text)


def named(text: str) -> str:
    """A name that a stranger chose, if it looks like one; else only that it does not.

    A letter, then letters, digits and ``_.-``: 64 characters at most, of them 8 digits.

    >>> named("colour"), named("4111111111111111"), named("a\\x1b[2J")
    ('`colour`', '(its name is none)', '(its name is none)')
    """
    looks = len(text) <= NAME_MAX and _NAME.fullmatch(text)
    if looks and sum(map(str.isdecimal, text)) <= _DIGITS_MAX:
        return f"`{text}`"
    return "(its name is none)"


def without_long_digits(text: str) -> str:
    """A text for the log without what may be a card number: 13 digits and more.

    >>> without_long_digits("invalid literal: '4111 1111-1111 1111'")
    "invalid literal: '…'"
    """
    return _LONG_DIGITS.sub("…", text)


def _escaped(char: str) -> str:
    if unicodedata.category(char) not in _UNSAFE:
        return char
    if char in _SHORT:
        return _SHORT[char]
    code = ord(char)
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )


def _json_escaped(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
