"""Two cells beside each other, each with its own broker, store and folders: what is personal in one
is nowhere in the other, also where a caller sends it to the wrong one."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import msgspec
import pyarrow.parquet as pq
import pytest
import redis

from local.stack import Stack
from sluice.adapters.kafka.embedded import EmbeddedBroker
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.domain.records.authorization import Authorization, encode
from sluice.domain.records.dead_letter import DeadLetter
from sluice.domain.records.decision import Decision
from sluice.domain.release import public_line
from sluice.testing.factories import make_authorization
from sluice.testing.release import KEY, make_release
from tests.support.kafka import read_all, wait_until
from tests.support.traffic import answered

pytestmark = pytest.mark.slow

SERVICES = ("decider-sync", "decider-stream", "featurizer", "archiver", "auditor")
EACH = 12
"""Authorizations of a region through each entrypoint."""
PERSONAL = ("card_token", "customer_id", "device_id", "ip_prefix")
NAMES = Topics()


def traffic(region: str, entrypoint: str) -> list[Authorization]:
    """Of now; whatever is personal names its region."""
    return [
        make_authorization(
            f"id-{region}-{entrypoint}-{n}",
            event_at=time.time_ns() // 1000,
            region=region,
            card_token=f"card-{region}-{entrypoint}-{n % 5}",
            customer_id=f"customer-{region}-{n % 5}",
            device_id=f"device-{region}-{n % 3}",
            ip_prefix=f"2001:db8:{'aaaa' if region == 'eea' else 'bbbb'}:{n}::/64",
        )
        for n in range(EACH)
    ]


def personal(region: str) -> set[bytes]:
    """What of a region's customers must be in no other cell; ids of authorizations too, but for
    their digests."""
    auths = traffic(region, "sync") + traffic(region, "stream")
    found = {getattr(auth, name).encode() for auth in auths for name in PERSONAL}
    return found | {auth.authorization_id.encode() for auth in auths}


@dataclass
class Cell:
    """One region's own parts."""

    region: str
    broker: EmbeddedBroker
    store: EmbeddedStore
    stack: Stack

    def send(self, auths: list[Authorization]) -> None:
        producer = EventProducer(self.broker.bootstrap, client_id="caller")
        for auth in auths:
            producer.produce(NAMES.authorizations, encode(auth), key=auth.card_token)
        producer.flush(60)

    def decisions(self) -> list[Decision]:
        found = read_all(self.broker.bootstrap, NAMES.decisions)
        return [msgspec.json.decode(one.value, type=Decision) for one in found]

    def refused(self) -> list[DeadLetter]:
        found = read_all(self.broker.bootstrap, NAMES.dead_letters)
        return [msgspec.json.decode(one.value, type=DeadLetter) for one in found]

    def behind(self) -> bool:
        """Whether something is not written yet."""
        part = self.stack.processes
        own = 2 * EACH
        return (
            len(self.refused()) < EACH
            or part["archiver"].metric("sluice_archiver_rows_total") < own
            or part["featurizer"].metric("sluice_featurizer_events_total") < 4 * own
            or part["auditor"].metric("sluice_auditor_signed_size") < own
        )

    def places(self) -> Iterator[tuple[str, bytes]]:
        """Every byte that the cell keeps or shows, by where it is."""
        for topic in NAMES.all():
            for one in read_all(self.broker.bootstrap, topic, committed=False):
                yield f"topic {topic}", b"%s %s" % (str(one.key).encode(), one.value)
        host, _, port = self.store.host_port.partition(":")
        with redis.Redis(host=host, port=int(port)) as client:
            for key in client.scan_iter(count=1000):
                dumped = client.dump(key)
                assert isinstance(dumped, bytes)
                yield "store", key + dumped
        for process in self.stack.processes.values():
            yield "metrics", process.metrics().encode()
        for path in sorted(self.stack.folder.rglob("*")):
            if path.is_file():
                part = path.relative_to(self.stack.folder).parts[0]
                yield part, path.name.encode() + path.read_bytes()
                if path.suffix == ".parquet":
                    yield part, repr(pq.read_table(path).to_pydict()).encode()


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Cell]]:
    """Both with one release and one policy, and all of their traffic done, some of it misled."""
    folder = tmp_path_factory.mktemp("cells")
    release = make_release(folder / "release")
    policy = folder / "policy"
    shutil.copytree("policies/default", policy)
    (folder / "trust").mkdir()
    (folder / "trust/test.pub").write_text(public_line(KEY.public_key(), "test"))
    with ExitStack() as parts:
        made = {}
        for region in ("eea", "us"):
            broker = EmbeddedBroker()
            parts.callback(broker.close)
            broker.create(NAMES)
            store = parts.enter_context(EmbeddedStore())
            stack = Stack(
                broker.bootstrap,
                store.url,
                folder / region,
                {
                    "SLUICE_SERVICE_REGION": region,
                    "SLUICE_AUDITOR_ENVIRONMENT": "bank.example",
                    "SLUICE_AUDITOR_CELL": region,
                    "SLUICE_DECIDER_RELEASE_DIR": str(release),
                    "SLUICE_DECIDER_TRUST_DIR": str(folder / "trust"),
                    "SLUICE_DECIDER_POLICY_DIR": str(policy),
                    "SLUICE_DECIDER_DRAIN_S": "0",
                    "SLUICE_STORE_BUDGET_MS": "1000",  # a loaded machine is late, not broken
                    "SLUICE_ARCHIVER_ROLL_S": "1",
                    "SLUICE_SERVICE_LOG_LEVEL": "DEBUG",
                },
            )
            stack.make_log_keys()
            parts.enter_context(stack)
            for name in SERVICES:
                stack.start(name)  # type: ignore[arg-type]
            made[region] = Cell(region, broker, store, stack)
        for cell in made.values():
            cell.stack.wait_all()
        for cell, region in itertools.product(made.values(), made):
            for auth in traffic(region, "sync"):
                status, answer = answered(cell.stack.port, encode(auth))
                expected = (200, None) if region == cell.region else (422, "other_region")
                assert (status, json.loads(answer).get("code")) == expected
            cell.send(traffic(region, "stream"))
        for cell in made.values():
            wait_until(lambda cell=cell: not cell.behind(), f"{cell.region} has written all")  # type: ignore[misc]
        yield made


def test_a_cell_decides_for_its_region_alone(cells: Mapping[str, Cell]) -> None:
    for region, cell in cells.items():
        decided = {one.authorization.authorization_id for one in cell.decisions()}
        own = traffic(region, "sync") + traffic(region, "stream")
        assert decided == {auth.authorization_id for auth in own}
        assert {one.code for one in cell.refused()} == {"other_region"}
        assert len(cell.refused()) == EACH


def test_nothing_personal_of_one_cell_is_in_another(cells: Mapping[str, Cell]) -> None:
    for cell, other in itertools.permutations(cells.values()):
        own, foreign = personal(cell.region), personal(other.region)
        with_own = set()
        for place, found in cell.places():
            if place == f"topic {NAMES.authorizations}":
                continue  # its writer put there what the writer chose
            assert not [text for text in foreign if text in found], place
            if any(text in found for text in own):
                with_own.add(place)
        # So what is looked through is what the cell keeps, and would show the other's.
        assert with_own >= {f"topic {NAMES.decisions}", "store", "archive"}


def test_what_was_sent_to_the_wrong_cell_lies_only_where_its_sender_wrote_it(
    cells: Mapping[str, Cell],
) -> None:
    for cell, other in itertools.permutations(cells.values()):
        sent = {auth.authorization_id for auth in traffic(other.region, "stream")}
        written = read_all(cell.broker.bootstrap, NAMES.authorizations)
        found = [msgspec.json.decode(one.value, type=Authorization) for one in written]
        assert {one.authorization_id for one in found if one.region != cell.region} == sent


def test_cells_share_release_and_policy_by_digest_and_nothing_of_their_logs(
    cells: Mapping[str, Cell],
) -> None:
    shared = [{(one.release, one.policy) for one in cell.decisions()} for cell in cells.values()]
    assert shared[0] == shared[1]
    assert len(shared[0]) == 1
    for region, cell in cells.items():
        checkpoint = (cell.stack.folder / "log/0/checkpoint").read_text()
        assert checkpoint.startswith(f"bank.example/{region}/0\n")
        for process in cell.stack.processes.values():
            assert f'sluice_region_info{{region="{region}"}} 1.0' in process.metrics()
    keys = [
        (cell.stack.folder / "keystore-roots/roots.json").read_bytes() for cell in cells.values()
    ]
    assert keys[0] != keys[1]
