"""One running Sluice, both entrypoints: traces, bad input, one id at both entrypoints, parity,
clean stops."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import redis

from local.kafka.broker import Node
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.domain.clock import HOUR_US, SystemClock
from sluice.domain.records.authorization import encode
from sluice.testing.factories import make_authorization, make_label
from tests.support.card_corpus import ENCODINGS, FIELDS, SHORTEST_INSIDE, card_number
from tests.support.deployment import Deployment, make_deployment
from tests.support.kafka import read_all, wait_until
from tests.support.traffic import Caller, StreamTraffic, answered

pytestmark = pytest.mark.slow

SERVICES = ("decider-sync", "decider-stream", "featurizer", "archiver")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CARD_NUMBER = "4111111111111111"
LOG_ID_KEY = "only-a-test"


@pytest.fixture(scope="module")
def _world(kafka: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("entrypoints")
    with (
        EmbeddedStore() as store,
        make_deployment(
            kafka.bootstrap,
            store.url,
            folder,
            environment={"SLUICE_SERVICE_LOG_ID_KEY": LOG_ID_KEY},
        ) as deployment,
    ):
        yield deployment


@pytest.fixture
def deployment(_world: Deployment) -> Deployment:
    """One world for the module, all of it running."""
    _world.start(*(name for name in SERVICES if name not in _world.stack.processes))
    return _world


def ask(deployment: Deployment, raw: bytes, **headers: str) -> bytes:
    status, body = answered(deployment.stack.port, raw, **headers)
    assert status == 200
    return body


def authorization(name: str, **changes: Any) -> bytes:
    """JSON of a good authorization of now, with fields changed, added, or None to leave out."""
    fields = json.loads(encode(make_authorization(name, event_at=SystemClock().now_us())))
    fields = {key: value for key, value in fields.items() if value is not None} | changes
    return json.dumps({key: value for key, value in fields.items() if value is not None}).encode()


def test_a_callers_trace_is_found_in_the_record_and_in_the_log(deployment: Deployment) -> None:
    caller = f"00-{TRACE}-00f067aa0ba902b7-01"
    ask(deployment, authorization("traced"), traceparent=caller)
    ledger = deployment.ledger()
    (message,) = [m for m, d in ledger.decided if d.authorization.authorization_id == "traced"]
    assert message.traceparent == caller

    def line() -> str | None:
        name = hmac.new(LOG_ID_KEY.encode(), b"traced", hashlib.sha256).hexdigest()[:32]
        lines = (x for x in deployment.logs().splitlines() if f'"id_hmac":"{name}"' in x)
        return next(lines, None)

    said = json.loads(wait_until(line, "the line is written"))
    assert (said["trace_id"], said["code"]) == (TRACE, "decided")


def test_one_authorization_at_both_entrypoints_gets_one_decision(deployment: Deployment) -> None:
    producer = EventProducer(deployment.bootstrap, client_id="test")

    heard = {}
    for n in range(10):  # whoever comes first
        raw = authorization(f"race-{n}")
        producer.produce(deployment.topics.authorizations, raw, key="card-1")
        if n % 2:
            producer.flush(60)
        heard[f"race-{n}"] = ask(deployment, raw)
    later = {f"later-{n}": authorization(f"later-{n}") for n in range(10)}
    for raw in later.values():
        producer.produce(deployment.topics.authorizations, raw, key="card-1")
    producer.flush(60)
    wait_until(
        lambda: later.keys() <= deployment.ledger().answers().keys(), "the stream processor decided"
    )
    heard |= {name: ask(deployment, raw) for name, raw in later.items()}

    ledger = deployment.recount(heard)
    assert {
        d.entrypoint for d in ledger.decisions if d.authorization.authorization_id in later
    } == {"stream"}


BAD: dict[str, tuple[str, Any]] = {
    "unknown field": ("unknown_field", {"colour": "red"}),
    "missing field": ("missing_field", {"mcc": None}),
    "wrong type": ("wrong_type", {"amount_minor": "12.34"}),
    "a fraction": ("wrong_type", {"amount_minor": 12.34}),
    "negative amount": ("out_of_range", {"amount_minor": -1}),
    "huge amount": ("out_of_range", {"amount_minor": 10**12}),
    "no integer of 64 bits": ("out_of_range", {"amount_minor": 10**30}),
    "unknown currency": ("unknown_currency", {"currency": "XQQ"}),
    "unknown country": ("unknown_country", {"merchant_country": "QQ"}),
    "unknown channel": ("unknown_value", {"channel": "pigeon"}),
    "far past": ("event_too_old", {"event_at": 1_000_000_000_000_000}),
    "nested where a text belongs": ("wrong_type", {"card_token": [[[[1]]]]}),
} | {
    f"card number in {field}": ("card_number", {field: CARD_NUMBER})
    for field in (
        *("authorization_id", "card_token", "merchant_id", "terminal_id", "customer_id"),
        *("device_id", "mcc", "channel", "currency", "merchant_country", "ip_prefix", "colour"),
    )
}
RAW: dict[str, tuple[str, bytes]] = {
    "NaN": ("invalid_json", authorization("nan").replace(b"1234", b"NaN")),
    "invalid UTF-8": ("invalid_json", authorization("utf-8").replace(b"card-1", b"card-\xff")),
    "not JSON": ("invalid_json", b"hello"),
    "nothing": ("invalid_json", b""),
    "deep nesting": ("wrong_type", b"[" * 15_000),
    "1 MB": ("too_large", authorization("large", customer_id="x" * 1_000_000)),
}


def test_a_smoke_test_finds_its_decision_and_its_state_and_a_wrong_address_is_named(
    deployment: Deployment,
) -> None:
    """What `helm test` runs."""
    done = deployment.stack.verb("smoke-test", "--url", deployment.stack.url)
    assert done.returncode == 0, done.stderr
    assert re.search(r"answered \w+ \(D\d\), recorded at \S+decisions.v1/\d+@\d+", done.stdout)

    done = deployment.stack.verb("smoke-test", "--url", "http://127.0.0.1:1", "--timeout", "1")
    assert done.returncode == 1
    assert "no answer within 1 s: the sync API does not answer" in done.stderr


def test_bad_input_is_one_dead_letter_each_and_its_neighbours_are_decided(
    deployment: Deployment,
) -> None:
    producer = EventProducer(deployment.bootstrap, client_id="test")
    good = [authorization(f"good-{n}") for n in range(len(BAD) + len(RAW) + 2)]
    bad = [(code, authorization("bad", **change)) for code, change in BAD.values()]
    bad += RAW.values()
    bad.append(("conflict", authorization("good-0", amount_minor=1)))
    ahead = SystemClock().now_us() + HOUR_US
    bad.append(("event_in_future", authorization("ahead", event_at=ahead)))
    before = len(deployment.ledger().dead_letters)
    for neighbour, (_, raw) in zip(good, bad, strict=True):
        for value in (neighbour, raw):
            producer.produce(deployment.topics.authorizations, value, key="card-1")
    producer.flush(60)

    ledger = deployment.recount({})
    dead_letters = ledger.dead_letters[before:]
    expected = Counter((code, hashlib.sha256(raw).hexdigest(), len(raw)) for code, raw in bad)
    assert Counter((x.code, x.sha256, x.size_bytes) for x in dead_letters) == expected
    decided = {d.authorization.authorization_id for d in ledger.decisions}
    assert decided >= {f"good-{n}" for n in range(len(good))}

    names = deployment.topics
    written = [
        m.value
        for topic in (names.decisions, names.observations, names.dead_letters)
        for m in read_all(deployment.bootstrap, topic)
    ]
    assert not any(CARD_NUMBER.encode() in value for value in written)
    assert CARD_NUMBER not in deployment.logs()


def test_no_card_number_of_any_encoding_is_found_anywhere(deployment: Deployment) -> None:
    """Sent through both entrypoints; whatever we write is then read as bytes."""
    rng = random.Random(7)
    hidden = [
        (text, number)
        for encoding, encode_number in ENCODINGS.items()
        for number in (card_number(rng, SHORTEST_INSIDE) for _ in range(3))
        for text in [encode_number(number, rng)]
    ]
    producer = EventProducer(deployment.bootstrap, client_id="test")
    for n, (text, number) in enumerate(hidden):
        field = FIELDS[n % len(FIELDS)]
        raw = authorization(f"hidden-{n}", **{field: text})
        status, body = answered(
            deployment.stack.port, raw, traceparent=f"00-{number.ljust(32, '0')}-{'1' * 16}-00"
        )
        assert status == 422
        assert text not in body.decode()
        assert number not in body.decode()
        producer.produce(deployment.topics.authorizations, raw, key="card-1")
    producer.flush(60)
    deployment.recount({})

    names = deployment.topics
    written = [
        part
        for topic in (names.decisions, names.observations, names.labels, names.dead_letters)
        for message in read_all(deployment.bootstrap, topic)
        for part in (message.value, message.key or b"", (message.traceparent or "").encode())
    ]
    written += dumped(deployment.stack.store_url)
    written += [path.read_bytes() for path in deployment.stack.folder.rglob("*") if path.is_file()]
    everything = b"\n".join(written)
    assert b"good-0" in everything, "the places are the right ones"
    for text, number in hidden:
        assert number.encode() not in everything
        assert text.encode() not in everything


def dumped(url: str) -> list[bytes]:
    """Keys and values of a store, as it would write them to a file."""
    with redis.Redis.from_url(url) as store:
        found = []
        for key in store.scan_iter(count=1000):
            found += [key, store.dump(key) or b""]
            if store.type(key) == b"hash":
                found += [part for pair in store.hgetall(key).items() for part in pair]
            elif store.type(key) == b"string":
                found.append(store.get(key) or b"")
        return found


def test_every_vector_of_a_mixed_run_is_recomputed_from_the_log_bit_for_bit(
    deployment: Deployment,
) -> None:
    stream = StreamTraffic(
        deployment.bootstrap, deployment.topics.authorizations, "parity", replays=10
    )
    caller = Caller(deployment.stack.port, "parity-sync")
    labels = EventProducer(deployment.bootstrap, client_id="test")
    with stream, caller:
        for wanted in (200, 400, 600):
            wait_until(lambda wanted=wanted: stream.sent > wanted, "traffic runs")
            for decision in deployment.ledger().decisions[-20:]:
                label = make_label(decision.authorization, known_at=decision.decided_at)
                labels.produce(deployment.topics.labels, encode(label), key=label.authorization_id)
            labels.flush(60)
            deployment.stack.kill("featurizer")  # what it had not committed is delivered again
            deployment.start("featurizer")
    ledger = deployment.recount(caller.heard)
    assert any(d.pending for d in ledger.decisions)
    assert any(d.states.card for d in ledger.decisions)
    np.testing.assert_array_equal(
        ledger.replay().features(ledger.decisions), [d.features for d in ledger.decisions]
    )


def test_sigterm_under_traffic_ends_each_service_well_and_loses_nothing(
    deployment: Deployment,
) -> None:
    stream = StreamTraffic(deployment.bootstrap, deployment.topics.authorizations, "term")
    caller = Caller(deployment.stack.port, "term-sync")
    with stream, caller:
        wait_until(lambda: stream.sent > 100 and len(caller.heard) > 20, "traffic runs")
        for name in SERVICES:
            assert deployment.stack.stop(name) == 0, name
            deployment.start(name)
    ledger = deployment.recount(caller.heard)
    assert ledger.holes() == {}
    assert sum(d.authorization.authorization_id[:5] == "term-" for d in ledger.decisions) == (
        stream.sent + len(caller.heard)
    )
