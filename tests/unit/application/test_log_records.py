"""Messages become entries of the compliance log, or the reason why they do not."""

import json

import msgspec
import pytest

from sluice.application.keep_log import Refused, decided_of
from sluice.application.log_records import ACTION_CLASSES, LogRecords
from sluice.application.ports import Message
from sluice.application.told import change_of
from sluice.audit.entries import parse_header, split
from sluice.domain.activation import Activation, Canary, Named, statement_of
from sluice.domain.records.authorization import ScaExemption
from sluice.domain.records.decision import MadeBy, Origin
from sluice.domain.records.label import label_of
from sluice.domain.records.log_record import DecisionRecord, DuplicateRecord, actor_of, read
from sluice.domain.records.outcome import Outcome
from sluice.testing.factories import NOON_US, make_authorization
from sluice.testing.keystore import MemoryKeystore
from sluice.testing.records import make_decision

AT = NOON_US + 5_000_000
LOG = "test/eu/0"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


def message(value, topic="decisions.v1", offset=0, **more) -> Message:
    raw = value if isinstance(value, bytes) else msgspec.json.encode(value)
    return Message(raw, None, topic, 3, offset, more.get("traceparent"))


def made(*messages, superseded=None, keystore=None, **more):
    records = LogRecords(log=LOG, keystore=keystore or MemoryKeystore(), **more)
    return records.entries(records.read(messages), superseded or [False] * len(messages), AT)


def opened(entry, keystore):
    header, sealed = split(entry)
    said = read(header).sealed
    return json.loads(keystore.existing(said.subject, said.period).open(sealed, header))


def test_a_decision_is_logged_in_clear_but_for_what_is_personal():
    keystore = MemoryKeystore()
    decision = make_decision(device_id="device-9", ip_prefix="203.0.113.0/24")
    (entry,) = made(message(decision, offset=41, traceparent=TRACE), keystore=keystore)
    header, sealed = split(entry)
    record = read(header)
    assert isinstance(record, DecisionRecord)
    assert parse_header(header)["source"] == {
        "topic": "decisions.v1", "partition": 3, "offset": 41,
    }  # fmt: skip
    assert (record.log, record.recorded_at, record.emitter, record.sequence) == (
        LOG, AT, decision.emitter, decision.sequence,
    )  # fmt: skip
    assert record.authorization_id == "a-1"
    assert record.body.outcome == "approve"
    assert record.body.action_class == "allow"
    assert record.body.solely_automated
    assert record.body.latency_us == 2_000
    assert record.body.provenance.trace == TRACE[3:35]
    assert record.body.states.terminal is None
    for personal in ("card-1", "merchant-1", "terminal-1", "device-9", "203.0.113.0"):
        assert personal.encode() not in header
        assert personal.encode() not in sealed
    whole = json.loads(msgspec.json.encode(decision))
    assert opened(entry, keystore) == {
        name: whole[name] for name in ("authorization", "features", "pending")
    }


def test_what_a_decider_says_of_itself_is_in_the_record():
    by = MadeBy(
        release_digest="a" * 64,
        runtime="onnxruntime-1.22.0",
        policy_digest="b" * 64,
        policy_version=7,
        score_ppm=[300_000, None, 900_000],
        expected_loss_minor=[None, None, None],
        build="0.2.0",
        image="registry/sluice@sha256:" + "c" * 64,
        config="d" * 64,
    )
    decision = msgspec.structs.replace(make_decision(), made_by=by, fired=["many-small"])
    (entry,) = made(message(decision))
    body = parse_header(split(entry)[0])["body"]
    assert body["model"] == {
        "release": "release-1", "digest": "a" * 64, "runtime": "onnxruntime-1.22.0",
    }  # fmt: skip
    assert body["policy"] == {
        "id": "policy-1", "version": 7, "digest": "b" * 64, "rules": ["many-small"],
        "silenced": [], "score_ppm": [300_000, None, 900_000],
        "expected_loss_minor": [None, None, None],
    }  # fmt: skip
    assert body["provenance"]["image"].endswith("c" * 64)


def sca_of(decision):
    return parse_header(split(made(message(decision))[0])[0])["body"]["sca"]


@pytest.mark.parametrize("exemption", [None, *ScaExemption])
def test_the_exemption_from_authentication_is_told_as_the_authorization_tells_it(exemption):
    sca = sca_of(make_decision(sca_exemption=exemption, three_ds="frictionless"))
    assert (sca["exemption"], sca["three_ds"]) == (exemption, "frictionless")
    assert ("tra" in sca) is (exemption == "transaction_risk_analysis")


@pytest.mark.parametrize(
    ("amount_minor", "currency", "etv_eur", "rate_ppm"),
    [
        (0, "EUR", 100, 1_300),
        (100_00, "EUR", 100, 1_300),
        (100_01, "EUR", 250, 600),
        (250_00, "EUR", 250, 600),
        (500_00, "EUR", 500, 100),
        (500_01, "EUR", None, None),
        (1_00, "USD", None, None),
    ],
)
def test_a_transaction_risk_analysis_names_threshold_value_and_reference_rate(
    amount_minor, currency, etv_eur, rate_ppm
):
    decision = msgspec.structs.replace(
        make_decision(sca_exemption="transaction_risk_analysis"),
        reference_amount_minor=amount_minor,
        reference_currency=currency,
    )
    assert sca_of(decision)["tra"] == {"etv_eur": etv_eur, "reference_rate_ppm": rate_ppm}


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_what_is_referred_to_a_person_is_not_solely_automated(outcome):
    decision = msgspec.structs.replace(make_decision(), outcome=outcome)
    body = parse_header(split(made(message(decision))[0])[0])["body"]
    assert body["action_class"] == ACTION_CLASSES[outcome]
    assert body["solely_automated"] is (outcome != "review")


def test_a_second_record_of_an_id_is_a_duplicate_that_says_what_it_said():
    keystore = MemoryKeystore()
    decision = msgspec.structs.replace(make_decision(), origin=Origin("authorizations.v1", 1, 9))
    (entry,) = made(message(decision), superseded=[True], keystore=keystore)
    record = read(split(entry)[0])
    assert isinstance(record, DuplicateRecord)
    assert record.body.kind == "superseded"
    assert record.body.origin.offset == 9
    assert record.body.decision.outcome == "approve"
    assert (record.emitter, record.sequence) == (decision.emitter, 0)
    assert opened(entry, keystore)["authorization"]["card_token"] == "card-1"


def test_of_an_erased_subject_the_record_stays_and_nothing_is_sealed():
    keystore = MemoryKeystore()
    keystore.erase(keystore.subject("test", "card-1"), "2026Q4")
    erased, other = made(
        message(make_decision()), message(make_decision(card_token="card-2")), keystore=keystore
    )
    header, sealed = split(erased)
    assert read(header).sealed is None
    assert sealed == b""
    assert opened(other, keystore)["authorization"]["card_token"] == "card-2"


def test_a_label_a_dead_letter_a_redelivery_and_a_step_of_a_rollout_are_logged():
    keystore = MemoryKeystore()
    label = label_of(
        make_authorization("a-1"), known_at=AT, is_fraud=True, kind="chargeback", source="net",
        report_id="r-7", reason="10.4",
    )  # fmt: skip
    dead = {
        "v": 1, "origin": {"topic": "authorizations.v1", "partition": 3, "offset": 7},
        "sha256": "9" * 64, "size_bytes": 4, "code": "invalid_json",
        "error": "not JSON: something somebody wrote", "service": "decider", "dead_at": AT,
    }  # fmt: skip
    step = {
        "v": 1, "at": AT, "emitter": "decider-0/1780000000000-1", "step": "returned",
        "role": "canary", "release": "cards-6", "digest": "b" * 64, "epoch": AT,
        "share_ppm": 10_000, "who": "Ann, of risk", "why": "a week in shadow",
        "reason": "decline_rate", "detail": "declined 3 % of them",
    }  # fmt: skip
    redriven = dead | {"code": "redriven", "service": "redrive", "who": "ann@example.com"}
    entries = made(
        message(label, "labels.v1"),
        message(dead, "dead-letters.v1"),
        message(dead | {"code": "duplicate"}, "dead-letters.v1"),
        message(step, "rollouts.v1"),
        message(redriven, "dead-letters.v1"),
        keystore=keystore,
    )
    headers = [parse_header(split(entry)[0]) for entry in entries]
    assert [h["type"] for h in headers] == [
        "label", "dead_letter", "duplicate", "rollout", "admin",
    ]  # fmt: skip
    assert headers[4]["body"] == {
        "actor": "ann@example.com", "action": "redrive", "target": "authorizations.v1/3@7",
        "detail": None,
    }  # fmt: skip
    assert all(h["emitter"] is h["sequence"] is None for h in headers)
    assert headers[0]["body"]["reason"] == "10.4"
    assert opened(entries[0], keystore) == {
        "card_token": "card-1", "merchant_id": "merchant-1", "terminal_id": "terminal-1",
        "device_id": None, "report_id": "r-7",
    }  # fmt: skip
    assert headers[1]["body"]["origin"] == dead["origin"]
    assert headers[2]["body"] == {
        "kind": "redelivered", "origin": dead["origin"], "decision": None,
    }  # fmt: skip
    assert headers[3]["body"]["actor"] == actor_of("Ann, of risk")
    for sentence in (b"somebody", b"a week", b"of risk", b"3 %"):
        assert all(sentence not in entry for entry in entries)


@pytest.mark.parametrize(
    "change",
    [
        {"authorization_id": "ref:4111-1111-1111-1111"},
        {"merchant_id": "NDExMTExMTExMTExMTExMQ"},
        {"ip_prefix": "203.0.113.7/32"},
        {"device_id": "cvv=123"},
        {"card_token": "4111111111111111"},
    ],
)
def test_a_record_that_holds_what_is_never_logged_gets_a_gap_and_its_neighbours_are_logged(change):
    authorization = msgspec.structs.replace(make_authorization("a-2"), **change)
    bad = msgspec.structs.replace(make_decision(), authorization=authorization)
    before, found, after = made(
        message(make_decision("a-1")), message(bad), message(make_decision("a-3"))
    )
    assert isinstance(found, Refused)
    assert found.reason == "forbidden_content"
    assert found.found in {"card_number", "ip_address", "verification_value"}
    assert [read(split(entry)[0]).authorization_id for entry in (before, after)] == ["a-1", "a-3"]


def test_fields_that_a_newer_decider_added_are_sealed_and_searched_too():
    keystore = MemoryKeystore()
    whole = json.loads(msgspec.json.encode(make_decision()))
    whole["authorization"]["acquirer_id"] = "acq-7"
    (entry,) = made(message(json.dumps(whole).encode()), keystore=keystore)
    assert opened(entry, keystore)["authorization"]["acquirer_id"] == "acq-7"
    whole["authorization"]["pan"] = 4111111111111111
    (found,) = made(message(json.dumps(whole).encode()))
    assert found == Refused("forbidden_content", "card_number")


@pytest.mark.parametrize(
    ("value", "topic"),
    [
        (b"", "decisions.v1"),
        (b"{", "decisions.v1"),
        (b"{}", "decisions.v1"),
        (b"[]", "labels.v1"),
        (b"{}", "dead-letters.v1"),
        (b"{}", "rollouts.v1"),
        (b"{}", "another.v1"),
    ],
)
def test_what_is_no_record_of_its_topic_is_unreadable(value, topic):
    assert made(message(value, topic)) == [Refused("unreadable")]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("features", [1, "4111111111111111"]),
        ("features", [1.5]),
        ("policy", "a sentence of words"),
        ("emitter", "a\nb"),
        ("release", "x" * 129),
        ("sequence", 2**53),
        ("decided_at", 2**60),
        ("reasons", ["A", "B", "C", "D", "E"]),
    ],
)
def test_a_decision_that_no_schema_allows_is_refused(field, value):
    whole = json.loads(msgspec.json.encode(make_decision())) | {field: value}
    (refused,) = made(message(json.dumps(whole).encode()))
    assert isinstance(refused, Refused)


def places(held, path=()):
    """Every leaf of a decision, but for what is sealed as the bytes that it is."""
    inside = held.items() if isinstance(held, dict) else enumerate(held)
    for key, value in inside:
        if key in ("pending", "features"):
            continue
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))
        else:
            yield (*path, key)


def test_a_decision_is_an_entry_only_where_the_strict_reading_takes_its_header():
    by = MadeBy(
        release_digest="a" * 64, runtime="onnxruntime-1.22.0", policy_digest="b" * 64,
        policy_version=7, score_ppm=[300_000, None, 900_000],
        expected_loss_minor=[None, 5, None], build="0.2.0", image="c", config="d" * 64,
    )  # fmt: skip
    decision = msgspec.structs.replace(
        make_decision(sca_exemption="transaction_risk_analysis"), made_by=by, fired=["rule-1"],
        silenced=["rule-2"], degraded=["terminal"], origin=Origin("authorizations.v1", 1, 9),
        settled=3, score_ppm=1, let_through_ppm=5, given_up=[(1, 2)],
    )  # fmt: skip
    reader = LogRecords(log=LOG, keystore=MemoryKeystore())
    plain = json.loads(msgspec.json.encode(decision))
    wrong = (
        "two words", "", "x" * 200, "\u202e", "a\n", None,
        -1, 2**53, 2**63, 1.5, True, [], ["a"] * 300,
    )  # fmt: skip
    taken = 0
    for path in places(plain):
        for value in wrong:
            whole = json.loads(json.dumps(plain))
            held = whole
            for key in path[:-1]:
                held = held[key]
            held[path[-1]] = value
            good, changed = message(plain), message(json.dumps(whole).encode())
            first, entry = made(good, changed, superseded=[False, value == ""])
            assert isinstance(first, bytes)
            # What is told of an id is what any reader of the topic sees, fit for the log or not.
            for one in (good, changed):
                assert reader.read([one])[0].decided == decided_of(one.value)
            if isinstance(entry, bytes):
                taken += 1
                read(split(entry)[0])
    assert taken > 10


def test_a_trace_that_is_none_makes_no_entry():
    for trace in ("00-", f"00-{'x' * 32}-", "00-4bf9"):
        assert made(message(make_decision(), traceparent=trace)) == [Refused("unreadable")]


def test_a_record_too_large_for_an_entry_is_refused():
    whole = json.loads(msgspec.json.encode(make_decision()))
    whole["features"] = [1] * 40_000
    assert made(message(json.dumps(whole).encode())) == [Refused("too_large")]


def test_ids_that_a_tenant_declares_are_logged():
    decision = make_decision("7411111111111111117")
    assert made(message(decision)) == [Refused("forbidden_content", "card_number")]
    (entry,) = made(message(decision), grammars={"test.authorization_id": "[0-9]{19}"})
    assert read(split(entry)[0]).authorization_id == "7411111111111111117"


def step(**more):
    said = Activation(
        what="release", id="cards-6", digest="a" * 64, epoch=AT, act="canary", who="ann",
        why="two good weeks in shadow", canary=Canary(Named("cards-7", "b" * 64), 10_000),
    )  # fmt: skip
    one = {
        "at": AT, "emitter": "decider-0/1-1", "step": "began", "role": "champion",
        "release": "cards-6", "digest": "a" * 64, "epoch": AT,
        "statement": statement_of(said).statement.decode(), "signers": ["2" * 16, "1" * 16],
    }  # fmt: skip
    return one | more


def test_an_activation_is_told_without_its_sentences():
    change = change_of(msgspec.json.encode(step()))
    body = change.activated
    assert (body.actor, body.signers, body.canary, body.share_ppm, body.shadow, body.after) == (
        "ann", ["1" * 16, "2" * 16], "b" * 64, 10_000, None, None,
    )  # fmt: skip
    assert b"weeks" not in msgspec.json.encode(body)
    assert change.thresholds is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"statement": "{}"},
        {"signers": ["Ann, of risk"]},
        {"role": "policy", "score_ppm": [1], "expected_loss_minor": [None, None, None]},
        {"role": "policy", "digest": "x", "score_ppm": [1] * 3, "expected_loss_minor": [None] * 3},
    ],
)
def test_a_step_whose_activation_cannot_be_told_of_is_no_record(wrong):
    assert [read(split(one)[0]).type for one in made(message(step(), "rollouts.v1"))] == ["rollout"]
    assert made(message(step(**wrong), "rollouts.v1")) == [Refused("unreadable")]
