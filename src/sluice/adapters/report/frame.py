"""What every page has: nothing in it is fetched from anywhere, and no stranger's text is markup."""

from __future__ import annotations

from html import escape

from sluice.adapters.report.style import STYLE
from sluice.shown import shown


def text(value: str) -> str:
    """A text for HTML; characters that would not be seen as they are, are written out."""
    return escape(shown(value))


def whole_page(title: str, body: str) -> str:
    """One file. title: not escaped yet. body: HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body><main>{body}"
        "</main></body></html>\n"
    )
