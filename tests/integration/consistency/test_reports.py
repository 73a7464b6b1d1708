"""Reports over decisions that were really made: log, archive and releases of one run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from sluice.bootstrap.keystore import keystore
from sluice.cli import main
from sluice.domain.records.decision import Decision
from sluice.domain.records.log_record import ActivatedBody, ModelRecord, RolloutBody, RolloutRecord
from sluice.domain.records.outcome import SEVERITY, Outcome
from sluice.settings import load
from sluice.testing.log import ORIGIN
from tests.integration.consistency.little import traffic
from tests.integration.consistency.mixed import Mixed
from tests.support.small_log import KEY, SmallLog

_decision = msgspec.json.Decoder(Decision)


class Bank(NamedTuple):
    """A run, its archive, and the log of it."""

    mixed: Mixed
    log: SmallLog

    def decided(self, wanted: Callable[[Decision], bool]) -> Decision:
        """The first decision of which that holds."""
        said = (_decision.decode(m.value) for m in self.mixed.log if m.topic == "decisions.v1")
        return next(d for d in said if wanted(d))

    def report(self, out: Path, *argv: str) -> tuple[dict[str, Any], str]:
        assert main(["report", *argv, *self.log.asked, "--out", str(out)]) == 0
        return json.loads((out / "report.json").read_text()), (out / "report.html").read_text()

    @property
    def library(self) -> list[str]:
        mixed = self.mixed
        return ["--policies", str(mixed.policies), "--releases", str(mixed.releases),
                "--trust", str(mixed.trust)]  # fmt: skip


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("bank")
        mixed = Mixed(root=root)
        mixed.run_now(traffic(300))
        mixed.archive(root / "archive")
        log = SmallLog(root, patch)
        log.write(log.entries(mixed.log))
        yield Bank(mixed, log)


def section(document: dict[str, Any], title: str) -> dict[str, Any]:
    (found,) = [one for one in document["sections"] if one["title"] == title]
    return dict(found)


def referred(d: Decision) -> bool:
    """By the score, in euros, with everything there."""
    return (
        d.outcome == Outcome.REVIEW
        and d.reasons == ["HIGH_SCORE"]
        and d.degradation_level == "D0"
        and d.authorization.currency == d.reference_currency
    )


def test_a_customer_is_told_values_reasons_and_what_would_have_been_milder(
    bank: Bank, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    d = bank.decided(referred)
    auth = d.authorization
    ask = ["explain-to-customer", auth.authorization_id, *bank.library]
    ask += ["--grant", bank.log.grant(auth.authorization_id)]
    document, page = bank.report(tmp_path / "customer", *ask)
    assert "The model's score is beyond the threshold" in section(document, "Why")["text"][1]
    assert "a person was to decide" in document["lead"]
    values = {row[0]: row[1] for row in section(document, "The values used")["table"]["rows"]}
    assert values["Amount in the reference currency"] == f"{d.reference_amount_minor / 100:,.2f}"
    assert auth.merchant_id in page
    assert auth.card_token not in page
    (first, *_) = section(document, "What would have led to another outcome")["text"][1:]
    assert first.startswith("With an amount of about ")
    about = first.split()[5]
    assert about.replace(".", "").rstrip("0").lstrip("0").isdigit()
    assert len(about.replace(".", "").strip("0")) <= 2
    for secret in (f"{d.score_ppm:,}", "the terminal in the last", "Thresholds on"):
        assert secret not in page
    # Well below what was named the outcome is milder indeed.
    capsys.readouterr()
    low = f"amount={float(about) / 2:.2f}"
    again = ["replay", auth.authorization_id, *bank.library, "--set", low, "--json"]
    assert main(again) == 0
    told = json.loads(capsys.readouterr().out)["counterfactual"]
    assert SEVERITY[Outcome(told["would_be"]["outcome"])] < SEVERITY[d.outcome]

    official, page = bank.report(tmp_path / "authority", *ask, "--for", "authority")
    facts = {
        f["name"]: f["value"] for f in section(official, "Score, thresholds and versions")["facts"]
    }
    assert facts["Score, in a million"] == d.score_ppm
    assert d.made_by is not None
    assert facts["Thresholds on the score"].split(", ")[0] == f"{d.made_by.score_ppm[0]:,}"
    assert len(section(official, "The values used")["table"]["rows"]) == len(d.features)
    edges = section(official, "What would have led to another outcome")["table"]["rows"]
    assert any(row[0] == "amount" and row[4] == "payment" for row in edges)
    with keystore(load()[0]) as store:
        kinds = [event.kind for event in store.events(0, 100)]
    assert kinds == ["access", "access"]


def test_an_archive_that_says_something_else_gives_no_counterfactual(
    bank: Bank, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    d = bank.decided(referred)
    ask = ["explain-to-customer", d.authorization.authorization_id, *bank.library]
    ask += ["--grant", bank.log.grant(d.authorization.authorization_id)]
    other = Mixed(root=tmp_path / "bank", seed=2)
    other.run_now(traffic(300))
    other.archive(tmp_path / "archive")
    document, _ = bank.report(tmp_path / "report", *ask, "--archive", str(tmp_path / "archive"))
    said = section(document, "What would have led to another outcome")["text"]
    assert said[0].startswith("The decision could not be computed again")
    assert "no counterfactual" in capsys.readouterr().err


def test_a_dispute_has_the_figures_served_and_a_proof_of_each_record(
    bank: Bank, tmp_path: Path
) -> None:
    labels = [json.loads(m.value) for m in bank.mixed.log if m.topic == "labels.v1"]
    name = labels[0]["authorization_id"]
    d = bank.decided(lambda d: d.authorization.authorization_id == name)
    document, page = bank.report(
        tmp_path / "report", "chargeback", name, "--grant", bank.log.grant(name)
    )
    assert d.authorization.terminal_id in page
    rows = section(document, "What became known later")["table"]["rows"]
    assert len(rows) == sum(one["authorization_id"] == name for one in labels)
    for row in section(document, "Proofs")["table"]["rows"]:
        assert main(["log", "verify-proof", str(tmp_path / "report" / row[4]), "--key", KEY]) == 0


def test_a_release_is_told_from_its_folder_to_its_decisions(bank: Bank, tmp_path: Path) -> None:
    at = bank.mixed.clock.now_us()
    d = bank.decided(lambda d: d.release == "test-2")
    assert d.made_by is not None
    digest = d.made_by.release_digest
    before = bank.decided(lambda d: d.release == "test-1").made_by
    assert digest is not None
    assert before is not None
    bank.log.add(
        ModelRecord(
            log=ORIGIN, recorded_at=2_000_000_000_000_000, emitter="deciders", sequence=0,
            body=ActivatedBody(
                id="test-2", digest=digest, epoch=at, act="promote", actor="ann",
                statement="c" * 64, signers=["0" * 16, "1" * 16], shadow=None, canary=None,
                share_ppm=None, before=before.release_digest, after=at - 1,
            ),
        ),
        RolloutRecord(
            log=ORIGIN, recorded_at=2_000_000_000_000_000, emitter="deciders", sequence=1,
            body=RolloutBody(
                decider="decider-0", at=at, step="began", role="champion", release="test-2",
                digest=digest, epoch=at, share_ppm=None, actor="ann", reason=None, why=None,
                detail=None,
            ),
        ),
    )  # fmt: skip
    mixed = bank.mixed
    document, page = bank.report(
        tmp_path / "report", "model-change", "test-2",
        "--releases", str(mixed.releases), "--trust", str(mixed.trust),
    )  # fmt: skip
    made = [_decision.decode(m.value) for m in mixed.log if m.topic == "decisions.v1"]
    by = [one for one in made if one.release == "test-2"]
    facts = {f["name"]: f["value"] for f in section(document, "What it decided")["facts"]}
    assert facts["Decisions"] == len(by)
    (signed,) = section(document, "Who let it decide")["table"]["rows"]
    assert signed[1:4] == ["promote", "test-2", "ann"]
    assert "1" * 16 in signed[4]
    (step,) = section(document, "How it was brought in")["table"]["rows"]
    assert step[1:4] == ["decider-0", "champion", "began"]
    changed = section(document, "What changed against the release before")
    assert "against test-1" in changed["text"][0]
    assert ["id", "test-1", "test-2"] in changed["table"]["rows"]
    about = {f["name"]: f["value"] for f in section(document, "What it is")["facts"]}
    assert about["Manifest, SHA-256"] == digest
    assert "not verified" not in about["Signed by"]
    held = (mixed.releases / "test-2" / "card.md").read_bytes()
    assert (tmp_path / "report" / "release-card.md").read_bytes() == held
    assert "no certificate of the gate" in page
