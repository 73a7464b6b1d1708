"""``sluice report``: whole verbs over a small log and keystore."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from sluice.application.prove_entry import check as check_proof
from sluice.application.read_log import Order
from sluice.application.reports.evidence import Log, check, proof_of
from sluice.audit.notes import parse_key
from sluice.bootstrap.keystore import keystore
from sluice.bootstrap.log import log_files
from sluice.cli import main
from sluice.domain.records.authorization import Channel, ThreeDs
from sluice.domain.records.decision import Decision
from sluice.domain.records.label import label_of
from sluice.settings import load
from sluice.testing.factories import NOON_US, make_authorization
from sluice.testing.log import ORIGIN
from sluice.testing.records import make_decision
from tests.support import logs
from tests.support.small_log import KEY, SmallLog

CARD = ["--tenant", "test", "--card", "card-1"]
BY = ["--who", "ann", "--case", "GDPR-17"]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallLog:
    """Three decisions, two of them of one card."""
    made = SmallLog(tmp_path, monkeypatch)
    made.add(*decisions())
    return made


def decisions() -> list[Decision]:
    return [
        make_decision("a-1", sequence=0),
        make_decision("a-2", sequence=1),
        make_decision("a-3", sequence=2, card_token="card-2"),
    ]


def report(log: SmallLog, *argv: str, checked: bool = True) -> tuple[dict[str, Any], str]:
    """The document of a report that is made, and the words of its page. checked: the checkpoints
    beside it are this log's."""
    out = log.root / "report"
    assert main(["report", *argv, *log.asked, "--out", str(out)]) == 0
    document = json.loads((out / "report.json").read_text())
    for one in document["rests_on"] if checked else ():
        known = str(out / one["file"])
        assert main(["log", "verify", str(log.folder), "--key", KEY, "--known", known]) == 0
    page = (out / "report.html").read_text()
    assert not re.search(r"<script|<link|<img|src=|href=|url\(|https?:", page)
    return document, unescape(re.sub(r"<[^>]*>", " ", page))


def section(document: dict[str, Any], title: str) -> dict[str, Any]:
    (found,) = [one for one in document["sections"] if one["title"] == title]
    return dict(found)


def test_a_receipt_says_what_was_destroyed_and_proves_it(log: SmallLog) -> None:
    assert main(["log", "hold", *CARD, "--who", "ann", "--case", "C-1"]) == 0
    assert main(["log", "unhold", *CARD, "--who", "ann", "--case", "C-1"]) == 0
    assert main(["log", "erase", *CARD, *BY]) == 0
    log.add_key_events()
    document, page = report(log, "erasure-receipt", "GDPR-17", "--ask-keystore")
    ((subject, periods, through, _, by, rows),) = section(document, "What was destroyed")["table"][
        "rows"
    ]
    assert (periods, by, rows) == ("2026Q2", "ann", "no archive was there")
    assert through > "2026Q2"
    assert section(document, "What the keystore says now")["table"]["rows"] == [
        [subject, "2026Q2", "none"]
    ]
    assert section(document, "Records of the card in these logs")["table"]["rows"] == [
        [subject, "2026Q2", "decision", 2, "cannot be opened"]
    ]
    holds = section(document, "Legal holds")
    assert [row[3] for row in holds["table"]["rows"]] == ["placed", "lifted"]
    assert "all of them are lifted" in holds["text"][0]
    (fact,) = section(document, "How to check it")["facts"]
    proof = str(log.root / "report" / fact["value"])
    assert main(["log", "verify-proof", proof, "--key", KEY]) == 0
    assert "card-1" not in page
    assert "Not legal advice" in page


def test_no_report_is_made_of_a_log_that_was_changed(
    log: SmallLog, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["log", "erase", *CARD, *BY]) == 0
    log.add_key_events()
    (bundle,) = (log.folder / "tile" / "entries").rglob("4")
    raw = bytearray(bundle.read_bytes())
    raw[-2] ^= 1
    bundle.write_bytes(raw)
    out = log.root / "report"
    assert main(["report", "erasure-receipt", "GDPR-17", *log.asked, "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert "first bad: entry 3" in said
    assert not out.exists()


def test_what_no_report_can_be_made_of_is_said(
    log: SmallLog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLUICE_DECIDER_TRUST_DIR", str(log.root / "grantor.pem.pub"))
    out = ["--out", str(log.root / "report")]
    assert main(["report", "erasure-receipt", "GDPR-9", *log.asked, *out]) == 3
    assert "no erasure for GDPR-9 in 3 entries" in capsys.readouterr().err
    for verb in ("erasure-receipt", "chargeback", "model-change"):
        assert main(["report", verb, "x\udc80\x1b[2J", *log.asked, *out]) == 3
        assert "\x1b" not in capsys.readouterr().err
    ask = ["report", "erasure-receipt", "GDPR-17", *out, "--log", str(log.folder)]
    assert main(ask) == 64
    assert main([*ask, "--key", KEY, "--key", KEY]) == 64
    (log.root / "report").mkdir()
    (log.root / "report" / "older").write_text("")
    assert main([*ask, "--key", KEY]) == 78
    assert "name a new folder" in capsys.readouterr().err
    (log.root / "report" / "older").unlink()
    (log.folder / "checkpoint").unlink()
    assert main([*ask, "--key", KEY]) == 3
    assert "there is no checkpoint" in capsys.readouterr().err
    assert not list((log.root / "report").iterdir())


def test_a_disputed_payment_is_told_from_its_header_without_a_grant(log: SmallLog) -> None:
    online = {"three_ds": ThreeDs.CHALLENGED, "channel": Channel.ECOM}
    log.add(
        make_decision("a-4", sequence=3, **online),
        label_of(make_authorization("a-4", **online), known_at=NOON_US + 9_000_000, is_fraud=True,
                 kind="chargeback", source="net", reason="10.4"),
    )  # fmt: skip
    document, page = report(log, "chargeback", "a-4")
    assert "the payer was asked and authenticated" in document["lead"]
    assert "1 report came in, 1 of them of fraud" in document["lead"]
    (row,) = section(document, "What became known later")["table"]["rows"]
    assert row[1:] == ["fraud", "chargeback", "net", "10.4", 4]
    assert "no grant" in section(document, "What was known when it was decided")["text"][0]
    proofs = section(document, "Proofs")["table"]["rows"]
    assert [row[2] for row in proofs] == ["decision", "label"]
    for row in proofs:
        proof = str(log.root / "report" / row[4])
        assert main(["log", "verify-proof", proof, "--key", KEY]) == 0
    assert "merchant-1" not in page
    assert "card-1" not in page


def test_an_explanation_of_another_builds_decision_names_what_it_cannot_show(
    log: SmallLog, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is sealed is opened, but its figures have names that this build does not know."""
    document, page = report(log, "explain-to-customer", "a-1", "--grant", log.grant("a-1"))
    assert "merchant-1, in BE" in page
    assert "another version of the software" in section(document, "The values used")["text"][0]
    assert "archive was not at hand" in page
    assert "there is no archive" in capsys.readouterr().err
    assert "bob opened what is sealed, for case DSAR-3" in page
    with keystore(load()[0]) as store:
        (event,) = store.events(0, 9)
        assert (event.kind, event.who, event.authorization_id) == ("access", "bob", "a-1")


def test_an_outcome_that_a_person_set_aside_is_told_of_with_both(
    log: SmallLog, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the record that the auditor makes of what the keystore was told."""
    override = ["log", "override", str(log.folder), "a-1", "--who", "eve"]
    assert main([*override, "--outcome", "review", "--case", "REV-7"]) == 0
    assert "approve set aside, review by eve for REV-7" in capsys.readouterr().out
    log.add_key_events()
    assert main([*override, "--outcome", "decline", "--case", "REV-8"]) == 0
    assert "review set aside, decline" in capsys.readouterr().out
    log.add_key_events()
    document, _ = report(log, "explain-to-customer", "a-1", "--grant", log.grant("a-1"))
    facts = section(document, "How it was decided")["facts"]
    told = [one["value"] for one in facts if one["name"].startswith("A person set it aside")]
    assert [value.rpartition(" ")[2] for value in told] == ["(REV-7)", "(REV-8)"]
    assert facts[0] == {"name": "Outcome", "value": "approved"}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("a-1", "--outcome", "approve"), "its outcome is approve already"),
        (("a-9", "--outcome", "decline"), "no decision of this authorization"),
        (("a-1", "--outcome", "decline", "--who", "no sentence"), "login or ticket"),
    ],
)
def test_an_override_of_nothing_is_refused_and_leaves_no_event(
    log: SmallLog, more: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    by = ["--who", "eve", "--case", "REV-7"]
    assert main(["log", "override", str(log.folder), *by, *more]) == 1
    assert says in capsys.readouterr().err
    with keystore(load()[0]) as store:
        assert store.events(0, 9) == []


def test_of_an_erased_card_the_header_is_explained(log: SmallLog) -> None:
    grant = log.grant("a-1")
    assert main(["log", "erase", *CARD, *BY]) == 0
    document, page = report(log, "explain-to-customer", "a-1", "--grant", grant)
    assert "this payment was approved" in document["lead"]
    assert "the key was destroyed" in section(document, "The values used")["text"][0]
    assert "merchant-1" not in page
    assert "asked to open" in section(document, "Who looked")["text"][0]


def test_nothing_is_opened_for_a_report_that_cannot_be_made(
    log: SmallLog, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(log.root / "report")]
    ask = ["report", "explain-to-customer", "a-1", *log.asked, *out]
    assert main(ask) == 64, "no grant"
    assert main([*ask, "--grant", log.grant("a-2")]) == 1
    assert "it is for another record" in capsys.readouterr().err
    unknown = ["report", "explain-to-customer", "a-9", *log.asked, *out]
    assert main([*unknown, "--grant", log.grant("a-9")]) == 3
    assert "no decision of a-9 in 3 entries" in capsys.readouterr().err
    (bundle,) = (log.folder / "tile" / "entries").rglob("3")
    bundle.write_bytes(bundle.read_bytes().replace(b"approve", b"decline"))
    assert main([*ask, "--grant", log.grant("a-1")]) == 1
    assert "first bad: entry 0" in capsys.readouterr().err
    assert not (log.root / "report").exists()
    with keystore(load()[0]) as store:
        assert store.events(0, 9) == []


def test_a_change_of_a_model_is_told_without_records_of_it_and_without_its_folder(
    log: SmallLog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trust = log.root / "grantor.pem.pub"
    monkeypatch.setenv("SLUICE_DECIDER_TRUST_DIR", str(trust))
    monkeypatch.setenv("SLUICE_DECIDER_RELEASE_DIR", str(log.root / "releases"))
    document, _ = report(log, "model-change", "release-1")
    assert "It made 3 decisions" in document["lead"]
    assert section(document, "What it decided")["table"]["rows"] == [["approve", 3, "100.00 %"]]
    for title in ("Who let it decide", "How it was brought in"):
        assert "in these logs" in section(document, title)["text"][0]
    assert "No folder of the release was at hand" in section(document, "What it is")["text"][0]
    out = ["--out", str(log.root / "other")]
    assert main(["report", "model-change", "release-9", *log.asked, *out]) == 3
    assert "no record of release release-9 in 3 entries" in capsys.readouterr().err


def test_a_report_rests_on_one_checkpoint_though_the_log_grows_meanwhile(log: SmallLog) -> None:
    seen: list[int] = []

    def take(_first: int, entries: Sequence[bytes]) -> None:
        seen.append(len(entries))
        log.add(make_decision("a-5", sequence=3))

    checked = check(Log(log_files(log.folder), Order(parse_key(KEY))), take)
    assert seen == [3]
    assert checked.rests_on.size == 3
    proven = check_proof(proof_of(checked, 2), parse_key(KEY), (), 0)
    assert (proven.opened.checkpoint.size, proven.record.authorization_id) == (3, "a-3")
    assert check(checked.log, lambda _first, _entries: None).checkpoint == checked.checkpoint


def test_what_another_log_of_the_cell_holds_of_it_is_in_the_report_too(
    log: SmallLog, capsys: pytest.CaptureFixture[str]
) -> None:
    other = log.root / "other"
    logs.write_log(other, [logs.entry(0), logs.entry(1, authorization_id="a-1")])
    both = ["--log", str(other), "--key", str(logs.KEY)]
    document, _ = report(log, "chargeback", "a-1", *both, checked=False)
    assert [one["log"] for one in document["rests_on"]] == [logs.ORIGIN, ORIGIN]
    (row,) = section(document, "What became known later")["table"]["rows"]
    assert (row[1], row[5]) == ("fraud", 1)
    proofs = section(document, "Proofs")["table"]["rows"]
    assert [row[:3] for row in proofs] == [[logs.ORIGIN, 1, "label"], [ORIGIN, 0, "decision"]]
    for (_, _, _, _, file), key in zip(proofs, (str(logs.KEY), KEY), strict=True):
        proof = str(log.root / "report" / file)
        assert main(["log", "verify-proof", proof, "--key", key]) == 0
    capsys.readouterr()
    seen = ["--witness", str(logs.SEEN_BY), "--require-witness", "1"]
    out = ["--out", str(log.root / "more")]
    assert main(["report", "chargeback", "a-1", *log.asked, *seen, *out]) == 3
    assert "0 known witnesses cosigned" in capsys.readouterr().err
