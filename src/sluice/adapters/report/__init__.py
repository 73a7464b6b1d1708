"""Judgements and documents as pages that need nothing else: HTML with style and drawings."""

from sluice.adapters.report.document import document_page
from sluice.adapters.report.page import page

__all__ = ["document_page", "page"]
