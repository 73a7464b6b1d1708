"""Reason codes: the bounded vocabulary in which a decision says why.

A decision names at most four: lists first, then the rules that fired, strictest first, then what
the model's score rests on. The table is closed, so that every metric, screen and dead letter knows
every word; a rule with a code of its own needs a line here and one in docs/reference.
"""

# ruff: noqa: E501 - a table reads best with one row a line

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Source = Literal["list", "rule", "threshold", "model", "table", "chance"]


@dataclass(frozen=True, slots=True)
class Reason:
    """One code, what it is called, and what an analyst reads."""

    code: str
    source: Source
    title: str
    sentence: str
    group: str = ""
    """Of a model's reason: the catalogue group whose features the score rests on."""


def _model(code: str, group: str, title: str, sentence: str) -> Reason:
    return Reason(code, "model", title, sentence, group)


REASONS: tuple[Reason, ...] = (
    Reason("CARD_BLOCKED", "list", "Card on a block list", "The card's token is on a block list."),
    Reason("MERCHANT_BLOCKED", "list", "Merchant on a block list", "The merchant is on a block list."),
    Reason("TERMINAL_BLOCKED", "list", "Terminal on a block list", "The terminal is on a block list."),
    Reason("DEVICE_BLOCKED", "list", "Device on a block list", "The device is on a block list."),
    Reason("ALLOW_LISTED", "list", "On an allow list", "An allow list kept the model's score from raising the outcome."),
    Reason("CARD_TESTING", "rule", "Card testing", "Many tiny amounts on the card within an hour, as when stolen numbers are tried out."),
    Reason("TERMINAL_TESTING", "rule", "Enumeration at a terminal", "Many cards in a few minutes, many of them declined: numbers are being tried out here."),
    Reason("CARD_VELOCITY", "rule", "Card used too often", "The card was used more often in a short time than its holder could plausibly do."),
    Reason("SPEND_VELOCITY", "rule", "Too much spent in a short time", "The amount spent on the card in an hour or a day is beyond the limit."),
    Reason("IMPOSSIBLE_TRAVEL", "rule", "Impossible travel", "The card was present in two places that no traveller could reach in the time between."),
    Reason("NEW_COUNTRY", "rule", "First use in this country", "The card is used abroad, in a country where it was never used before."),
    Reason("NEW_DEVICE", "rule", "First use of this device", "An unknown device spends a large amount on the card."),
    Reason("NEW_CARD_SPREE", "rule", "Spree on a new card", "A card with hardly any history spends a lot."),
    Reason("CARD_REPORTED", "rule", "Fraud reported on the card", "Fraud was reported on this card, and it is used again."),
    Reason("TERMINAL_REPORTED", "rule", "Fraud reported at the terminal", "Several frauds were reported at this terminal within a week."),
    Reason("MERCHANT_REPORTED", "rule", "Fraud reported at the merchant", "An unusual number of frauds was reported at this merchant within a week."),
    Reason("MERCHANT_BURST", "rule", "Burst of cards at a merchant", "Far more different cards than usual at this merchant within five minutes."),
    Reason("DEVICE_SHARED", "rule", "Device used with many cards", "One device uses many different cards."),
    Reason("HIGH_AMOUNT", "rule", "High amount", "The amount is beyond what is approved without a further look."),
    Reason("RISKY_MERCHANT", "rule", "Risky kind of merchant", "A large amount at a kind of merchant whose goods turn into cash."),
    Reason("UNAUTHENTICATED", "rule", "Not authenticated", "3-D Secure failed or did not run where it was to be expected."),
    Reason("HIGH_SCORE", "threshold", "High score", "The model's score is beyond the threshold, and no single group of features stands out."),
    Reason("EXPECTED_LOSS", "threshold", "High expected loss", "Score times amount, the loss to be expected, is beyond what a look costs."),
    _model("MODEL_AMOUNT", "amount", "Unusual amount", "The score rests on the amount compared with the card's own history."),
    _model("MODEL_CALENDAR", "calendar", "Unusual time", "The score rests on the hour or day."),
    _model("MODEL_CHANNEL", "channel", "Way of payment", "The score rests on how the card was presented or authenticated."),
    _model("MODEL_DECLINES", "declines", "Recent declines", "The score rests on declines of the card, terminal, merchant or device."),
    _model("MODEL_DEVICE", "device", "Device", "The score rests on the device and the cards it uses."),
    _model("MODEL_MERCHANT", "merchant", "Merchant's activity", "The score rests on how busy the merchant is, with how many cards and what amounts."),
    _model("MODEL_CATEGORY", "merchant category", "Merchant category", "The score rests on what the merchant sells."),
    _model("MODEL_NOVELTY", "novelty", "Something new", "The score rests on what the card never did before, or on how little is known of it."),
    _model("MODEL_PAIR", "pair", "Card and merchant", "The score rests on how this card is used at this merchant."),
    _model("MODEL_PLACE", "place", "Place", "The score rests on countries, currencies and the speed between places."),
    _model("MODEL_REPORTS", "reports", "Reported fraud", "The score rests on frauds reported of the card, terminal, merchant or device."),
    _model("MODEL_TERMINAL", "terminal", "Terminal's activity", "The score rests on how busy the terminal is, with how many cards and what amounts."),
    _model("MODEL_TESTING", "testing", "Tiny amounts", "The score rests on tiny amounts on the card, as in card testing."),
    _model("MODEL_VELOCITY", "velocity", "Pace of the card", "The score rests on how often and how much the card was used."),
    Reason("LET_THROUGH", "chance", "Let through to learn", "It would have been declined for the reasons beside this one, and was approved by chance to learn what becomes of it."),
    Reason("AMOUNT_AND_CHANNEL", "table", "Amount and channel alone", "Neither features nor model could be had in time; amount and channel decided."),
)  # fmt: skip

BY_CODE: dict[str, Reason] = {reason.code: reason for reason in REASONS}
MODEL_CODES: dict[str, str] = {r.group: r.code for r in REASONS if r.source == "model"}
"""Catalogue group to the reason code of a model whose score rests on it."""


def reference_page(reasons: Iterable[Reason] = REASONS) -> str:
    """docs/reference/reason-codes.md."""
    rows = [
        f"| `{r.code}` | {r.source}{f': {r.group}' if r.group else ''} | {r.title} | {r.sentence} |"
        for r in reasons
    ]
    return "\n".join(
        [
            "# Reason codes",
            "",
            "Generated from `src/sluice/domain/policy/reasons.py`; a test compares the two.",
            "",
            "A decision carries at most four codes: lists first, then the rules that fired, strictest",
            "first, then a threshold, then what the model's score rests on, strongest first. An approval",
            "carries none, unless a rule or list was at work. LET_THROUGH comes before all others.",
            "",
            "| Code | Source | Title | What an analyst reads |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    print(reference_page(), end="")
