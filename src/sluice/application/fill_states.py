"""What a rebuild takes from the archive: all states, on all cores, and answers still remembered."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

from sluice.application.decide import recorded_digest
from sluice.application.ports import StateStore
from sluice.application.rebuild import states_of
from sluice.application.replay import EventHistory
from sluice.domain.features.catalogue import VIEWS
from sluice.domain.records.authorization import encode
from sluice.domain.records.decision import Decision, answer
from sluice.errors import Unavailable

BUCKET_EVENTS = 1_000_000
"""Events that one process holds at a time: some 0.4 GB."""
ANSWERS_MAX = 5_000
"""Answers a round."""

WriteBucket = Callable[[int, int], int]
"""Writes the states of bucket i of n of all entities, returns how many. Called in processes of
their own: a function of a module, or a partial of one."""


def fill_states(
    write_bucket: WriteBucket, events: int, processes: int, report: Callable[[str], None]
) -> int:
    """Write the states of every entity, bucket by bucket. Returns how many.

    events: in the archive. Raises what a bucket raises.
    """
    # An event is of up to four entities, each perhaps in another bucket.
    of = max(processes, math.ceil(events * len(VIEWS) / BUCKET_EVENTS))
    began, written = time.monotonic(), 0
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        counts = pool.map(write_bucket, range(of), itertools.repeat(of))
        for done, count in enumerate(counts, 1):
            written += count
            rate = written / (time.monotonic() - began)
            report(f"{done} of {of} buckets, {written:,} entities, {rate:,.0f}/s")
    return written


def write_states(event_history: EventHistory, store: StateStore) -> int:
    """Write every state that an event history makes.

    Returns how many. Raises Unavailable if a state is there already.
    """
    written = 0
    for updates in states_of(event_history):
        if not all(store.write(updates)):
            raise Unavailable(
                "something else writes states while they are rebuilt",
                where="the online store",
                fix="stop it (a backfill, another rebuild), then run this again",
            )
        written += len(updates)
    return written


def remember(decisions: Iterable[tuple[Decision, bytes]], store: StateStore) -> int:
    """Keep answers that a caller who asks again may still get. Returns how many.

    decisions: each with the bytes of its record, which say what the id stood for.
    """
    count = 0
    answers = _answers(decisions)
    while some := list(itertools.islice(answers, ANSWERS_MAX)):
        store.remember(some)
        count += len(some)
    return count


def _answers(
    decisions: Iterable[tuple[Decision, bytes]],
) -> Iterator[tuple[str, str, bytes, bytes]]:
    for decision, record in decisions:
        auth = decision.authorization
        said = encode(answer(decision))
        yield auth.tenant, auth.authorization_id, recorded_digest(record), said
