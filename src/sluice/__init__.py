"""Sluice decides in real time whether a card authorization is fraud, and can prove it."""

__version__ = "0.2.0"
