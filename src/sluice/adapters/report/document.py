"""The page of a document: the answer on top, then what it rests on question by question, then the
checkpoints by which anybody can check it."""

from __future__ import annotations

from collections.abc import Sequence

from sluice.adapters.report.frame import text, whole_page
from sluice.application.reports.document import Cell, Document, Fact, RestsOn, Section, Table

UNBROKEN_MAX = 20
"""Characters of a cell that stay on one line: an amount, a share, a word."""


def document_page(document: Document) -> str:
    """The whole page."""
    d = document
    return whole_page(
        d.title,
        f"<h1>{text(d.title)}</h1>"
        f"<p class='lead'>{text(d.lead)}</p>"
        + _facts(
            [Fact("About", d.subject), Fact("For", d.audience), Fact("Made", d.made_at)],
        )
        + "".join(map(_section, d.sections))
        + _section(Section(title="What this does not say", text=d.limits))
        + _rests_on(d.rests_on)
        + f"<p class='notice'>{text(d.notice)}</p>",
    )


def _section(section: Section) -> str:
    return (
        f"<section><h2>{text(section.title)}</h2>"
        + "".join(f"<p>{_sentence(sentence)}</p>" for sentence in section.text)
        + _facts(section.facts)
        + (_table(section.table) if section.table else "")
        + "</section>"
    )


def _sentence(words: str) -> str:
    """What stands between backticks is what somebody types."""
    parts = text(words).split("`")
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))


def _facts(facts: Sequence[Fact]) -> str:
    if not facts:
        return ""
    rows = "".join(f"<dt>{text(one.name)}</dt><dd>{_cell(one.value)}</dd>" for one in facts)
    return f"<dl>{rows}</dl>"


def _table(table: Table) -> str:
    heads = "".join(f"<th>{text(name)}</th>" for name in table.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td{_kind(cell)}>{_cell(cell)}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    return f"<div class='wide'><table class='rows'><tr>{heads}</tr>{rows}</table></div>"


def _kind(value: Cell) -> str:
    """Numbers stand to the right; texts to the left, and break only where they are long."""
    if isinstance(value, int):
        return ""
    return " class=w" if value is not None and len(value) > UNBROKEN_MAX else " class=s"


def _cell(value: Cell) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else text(value)


def _rests_on(logs: Sequence[RestsOn]) -> str:
    parts = "".join(
        f"<h3>{text(one.log)}</h3>"
        + _facts(
            [
                Fact("Entries", one.size),
                Fact("Root", one.root),
                Fact("Signed with", one.key),
                Fact(
                    "Cosigned by",
                    "; ".join(f"{name}, {at}" for name, at in one.cosigned.items()) or "nobody",
                ),
                Fact("Recorded", f"{one.first_at} to {one.last_at}" if one.first_at else None),
                Fact("Checkpoint", one.file),
            ]
        )
        for one in logs
    )
    return (
        "<section><h2>What this rests on</h2><p>The compliance log up to these checkpoints. Every "
        "entry, hash and signature was checked before anything was taken from it. Whoever has the "
        "log and its key from somebody they trust checks it again, and that it still begins with "
        "this:</p><p><code>sluice log verify LOG --key KEY --known CHECKPOINT</code></p>"
        f"{parts}</section>"
    )
