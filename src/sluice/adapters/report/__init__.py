"""A judgement as one page that needs nothing else: HTML with its own style and drawings."""

from sluice.adapters.report.page import page

__all__ = ["page"]
