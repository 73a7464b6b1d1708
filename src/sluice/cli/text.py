"""From a module's docstring to the help of its verb."""

from __future__ import annotations

import inspect
import textwrap

EXAMPLE = "sluice "


def paragraphs(doc: str) -> list[str]:
    """A docstring's paragraphs; examples, which begin with the program's name, are indented.

    Python 3.13 takes the margin away where all lines but the first have one, so that it is no sign.
    """
    found = []
    for part in inspect.cleandoc(doc).split("\n\n"):
        text = textwrap.dedent(part.strip("\n"))
        found.append(textwrap.indent(text, "  ") if text.startswith(EXAMPLE) else text)
    return found


def help_of(doc: str | None) -> str:
    r"""Help in which examples stay as they are and the rest is wrapped to the terminal.

    >>> help_of("One.\n\nsluice one\n  --all")
    'One.\n\n\x08\n  sluice one\n    --all'
    """
    # click leaves a paragraph alone that begins with a backspace.
    return "\n\n".join(f"\b\n{p}" if p.startswith(" ") else p for p in paragraphs(doc or ""))
