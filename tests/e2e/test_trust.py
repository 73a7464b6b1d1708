"""What may decide, on a running stream processor: the dry run, the breaker, epochs and keys."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.kafka.broker import Node, free_port
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.bootstrap.services import store_at
from sluice.cli import main
from sluice.domain.clock import SystemClock
from sluice.domain.records.authorization import Channel, encode
from sluice.domain.records.decision import Decision
from sluice.domain.release import key_id
from sluice.testing.factories import make_authorization
from sluice.testing.release import KEY, make_release
from sluice.testing.store import declare_ready
from tests.support.deployment import Deployment, make_deployment
from tests.support.kafka import wait_until

pytestmark = pytest.mark.slow
HARMLESS, DECLINES_ALL = 6, 4
"""Seeds of releases, by what their random weights say of the traffic below."""
WINDOW, BOUND_PPM = 600, 300_000
RULE = """
  - id: {name}
    reason: HIGH_AMOUNT
    outcome: decline
    when:
      all:
        - amount_minor >= {minor}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(port=free_port(), directory=tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture(scope="module")
def deployment(
    kafka: Node, store: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """A stream processor on a release that approves what comes, with a small window."""
    folder = tmp_path_factory.mktemp("trust")
    settings = {
        "SLUICE_DECIDER_BREAKER_ROWS": str(WINDOW),
        "SLUICE_DECIDER_BREAKER_DECLINE_PPM": str(BOUND_PPM),
        "SLUICE_DECIDER_EPOCH_FILE": str(folder / "epochs.json"),
    }
    with make_deployment(kafka.bootstrap, store.url, folder, environment=settings) as deployment:
        release = make_release(folder / "releases" / "harmless", seed=HARMLESS)
        shutil.rmtree(deployment.release)
        deployment.release.symlink_to(release)
        assert main(["release", "keygen", "--out", str(folder / "trust" / "ann")]) == 0
        declare_ready(store_at(store.url))
        deployment.start("decider-stream")
        yield deployment


class Traffic:
    """Sends authorizations, each of a card of its own, and reads what was decided."""

    def __init__(self, deployment: Deployment) -> None:
        self._world = deployment
        self._producer = EventProducer(deployment.bootstrap, client_id="test")
        self._sent = len(deployment.ledger().decisions)

    def send(self, number: int, amount_minor: int) -> list[Decision]:
        names = set()
        for _ in range(number):
            self._sent += 1
            auth = make_authorization(
                f"t-{self._sent}",
                event_at=SystemClock().now_us(),
                card_token=f"card-{self._sent}",
                terminal_id=f"terminal-{self._sent}",
                merchant_id=f"merchant-{self._sent}",
                channel=Channel.POS,
                amount_minor=amount_minor,
            )
            names.add(auth.authorization_id)
            topic = self._world.topics.authorizations
            self._producer.produce(topic, encode(auth), key=auth.card_token)
        self._producer.flush(60)

        def found() -> list[Decision]:
            all_of_them = self._world.ledger().decisions
            mine = [d for d in all_of_them if d.authorization.authorization_id in names]
            return mine if len(mine) == number else []

        decisions: list[Decision] = wait_until(found, f"{number} more are decided")
        return decisions


def share(decisions: list[Decision], outcome: str) -> float:
    return sum(d.outcome == outcome for d in decisions) / len(decisions)


def metric(deployment: Deployment, name: str, **labels: str) -> float:
    page = deployment.stack.processes["decider-stream"].metrics()
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    rows = [row for row in page.splitlines() if row.startswith(name)]
    return sum(float(row.split()[-1]) for row in rows if all(w in row for w in wanted))


def refused(deployment: Deployment, what: str, code: str) -> float:
    return metric(deployment, "sluice_decider_refused_total", what=what, code=code)


def with_rule(deployment: Deployment, name: str, minor: int) -> None:
    """The default pack and one more rule, saved at once."""
    text = Path("policies/default/policy.yaml").read_text()
    rule = RULE.format(name=name, minor=minor)
    fresh = deployment.policy / ".policy.yaml.fresh"
    fresh.write_text(text.replace("\nrules:", f"\nrules:{rule.rstrip()}", 1))
    fresh.rename(deployment.policy / "policy.yaml")


def sign(deployment: Deployment, *words: str, folder: Path) -> None:
    key = deployment.policy.parent / "trust" / "ann"
    said = ["--key", str(key), "--who", "ann", "--why", "a test"]
    assert main([*words, str(folder), *said]) == 0


def point(deployment: Deployment, release: Path) -> None:
    fresh = deployment.release.with_name("fresh")
    fresh.symlink_to(release)
    fresh.replace(deployment.release)


def test_what_may_decide_decides_and_nothing_else(deployment: Deployment) -> None:
    traffic = Traffic(deployment)
    assert share(traffic.send(600, 2_000), "approve") == 1
    releases = deployment.policy.parent / "releases"

    # A policy and a model that decline everything: sound, signed where that is asked, and refused.
    with_rule(deployment, "all", 0)
    wait_until(lambda: refused(deployment, "policy", "dry_run_shift") == 1, "it is refused")
    point(deployment, make_release(releases / "declines", seed=DECLINES_ALL))
    wait_until(lambda: refused(deployment, "release", "dry_run_shift") == 1, "it is refused")
    assert "decline from 0.0% to 100.0%" in deployment.logs()
    after = traffic.send(50, 2_000)
    assert share(after, "approve") == 1
    assert {d.release for d in after} == {f"test-{HARMLESS}"}
    assert metric(deployment, "sluice_decider_refusing") == 2

    # A policy that moves nothing today decides; then the traffic shifts.
    before = after[0].policy
    with_rule(deployment, "large", 60_000)
    point(deployment, releases / "harmless")
    wait_until(lambda: metric(deployment, "sluice_decider_refusing") == 0, "both decide")
    (large,) = traffic.send(1, 70_000)
    assert large.outcome == "decline"
    shifted = traffic.send(2 * WINDOW, 70_000)
    declined = sum(d.outcome == "decline" for d in shifted)
    batch = 500
    assert declined <= WINDOW * BOUND_PPM // 1_000_000 + batch
    (back,) = traffic.send(1, 70_000)
    assert back.outcome != "decline"
    assert back.policy == before
    assert '"cause":"rule large"' in deployment.logs()
    trips = metric(deployment, "sluice_decider_breaker_trips_total", kind="rule", remedy="undone")
    assert trips == 1
    assert metric(deployment, "sluice_decider_breaker_open", kind="rule") == 1

    # It stays out until somebody signs that it may come back.
    sign(deployment, "policy", "reset", folder=deployment.policy)
    wait_until(lambda: metric(deployment, "sluice_decider_breaker_open") == 0, "it is reset")
    (again,) = traffic.send(1, 70_000)
    assert (again.outcome, again.policy) == ("decline", large.policy)
    assert '"act":"reset"' in deployment.logs()


def test_an_older_release_comes_back_only_by_a_signed_rollback(deployment: Deployment) -> None:
    traffic = Traffic(deployment)
    releases = deployment.policy.parent / "releases"
    for name, seed in (("one", HARMLESS), ("two", 5)):
        folder = make_release(releases / name, seed=seed, id=name)
        sign(deployment, "release", "activate", folder=folder)
    for name in ("one", "two"):
        point(deployment, releases / name)
        wait_until(lambda n=name: traffic.send(1, 2_000)[0].release == n, f"{name} decides")

    point(deployment, releases / "one")
    wait_until(lambda: refused(deployment, "release", "epoch") == 1, "the older one is refused")
    assert traffic.send(1, 2_000)[0].release == "two"
    deployment.stack.stop("decider-stream")
    deployment.start("decider-stream")
    assert traffic.send(1, 2_000)[0].degraded == ["model"], "nor after a restart"

    sign(deployment, "release", "rollback", folder=releases / "one")
    wait_until(lambda: traffic.send(1, 2_000)[0].release == "one", "the rollback decides")


def test_a_withdrawn_key_is_named_at_once_and_signs_nothing_new(deployment: Deployment) -> None:
    name = key_id(KEY.public_key())
    trust = deployment.policy.parent / "trust"
    (trust / "revoked.pub").write_text(f"revoked {name} a test\n")
    wait_until(
        lambda: metric(deployment, "sluice_decider_untrusted", what="release"), "it is named"
    )
    releases = deployment.policy.parent / "releases"
    before = refused(deployment, "release", "key_withdrawn")
    point(deployment, make_release(releases / "three", seed=HARMLESS, id="three"))
    wait_until(lambda: refused(deployment, "release", "key_withdrawn") > before, "it is refused")


def test_nothing_starts_on_a_policy_that_too_few_keys_approved(deployment: Deployment) -> None:
    two = {"SLUICE_DECIDER_POLICY_APPROVALS": "2"}
    sign(deployment, "policy", "activate", folder=deployment.policy)
    process = deployment.stack.start("decider-stream", replica="2", **two)
    assert process.popen.wait(180) == 1
    deployment.stack.processes.pop(process.name)
    assert "1 approved it, 2 must" in process.log.read_text()

    bob = deployment.policy.parent / "trust" / "bob"
    assert main(["release", "keygen", "--out", str(bob)]) == 0
    assert main(["policy", "approve", str(deployment.policy), "--key", str(bob)]) == 0
    process = deployment.stack.start("decider-stream", replica="2", **two)
    deployment.stack.wait_ready(process)
    needed = 'sluice_decider_approvals_required{what="policy"} 2.0'
    wait_until(lambda: needed in process.metrics(), "it started, and shows what is needed")
    assert deployment.stack.stop(process.name) == 0
