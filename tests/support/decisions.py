"""Decisions in ``decisions.v1`` of a real broker, without a decider."""

from __future__ import annotations

from sluice.adapters.kafka.topics import Topics
from sluice.adapters.kafka.transactions import TransactionalProducer
from sluice.domain.records.authorization import encode
from sluice.testing.records import make_decision
from tests.support.kafka import wait_ended

BATCH = 50
CARDS = 13


def decide(bootstrap: str, topics: Topics, first: int, until: int, *, cards: str = "card") -> None:
    """Those of these numbers, in transactions as the stream processor writes them. cards: what
    their tokens begin with."""
    writer = TransactionalProducer(bootstrap, transactional_id=topics.decisions, client_id="test")
    for at in range(first, until, BATCH):
        writer.begin()
        for number in range(at, min(at + BATCH, until)):
            card = f"{cards}-{number % CARDS}"
            decision = make_decision(f"a-{number}", sequence=number, card_token=card)
            writer.produce(topics.decisions, card, encode(decision))
        writer.commit()
    wait_ended(bootstrap, topics.decisions)
