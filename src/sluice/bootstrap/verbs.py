"""The verbs' parts: adapters and use cases joined, each loaded only when a verb asks for it.

So ``sluice --help`` loads no numba, and a verb fails for want of an extra only if it needs it.
"""

from __future__ import annotations

import secrets
import string
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sluice.settings import Settings

if TYPE_CHECKING:
    from sluice.adapters.feast.contract import Plan
    from sluice.adapters.files.past import Past
    from sluice.adapters.kafka.topics import Change, Existing
    from sluice.adapters.kubernetes import Kubectl
    from sluice.adapters.parquet.archive import Archive, Archived
    from sluice.adapters.parquet.compact import Compacted
    from sluice.adapters.parquet.history import HistoryFiles
    from sluice.adapters.policyfiles.files import PolicyFiles
    from sluice.adapters.storage import AnyPath
    from sluice.application.backfill import History, Ints, PastLabels
    from sluice.application.build_dataset import TrainingLog
    from sluice.application.consistency import Gate
    from sluice.application.dataset import Order
    from sluice.application.drift import Report as DriftReport
    from sluice.application.impact import Impact
    from sluice.application.label_maturity import Maturity
    from sluice.application.load_history import Archived as ArchivedPast
    from sluice.application.load_history import Stored
    from sluice.application.ports import StateStore, StateUpdate
    from sluice.application.promote import Steps
    from sluice.application.publish import BadRow, Report
    from sluice.application.rebuild import Rebuild
    from sluice.application.redrive import Originals, Sender
    from sluice.application.send_reports import Sent
    from sluice.application.smoke_test import Seen
    from sluice.application.spread import Spread
    from sluice.application.what_if import Replayed
    from sluice.bootstrap.library import FolderLibrary
    from sluice.domain.activation import Act, Activation, Checked, Named, What
    from sluice.domain.policy.fx import Fx
    from sluice.domain.records.dead_letter import DeadLetter
    from sluice.domain.records.label import Label
    from sluice.domain.records.rollout import Role, Rollout
    from sluice.domain.reference import Reference
    from sluice.domain.release import Manifest, TrustedKeys

Say = Callable[[str], None]


def trusted_keys(path: Path) -> TrustedKeys:
    """Public keys of a file or folder, whenever they end. Raises Misconfigured."""
    from sluice.adapters.onnx import read_trust

    return read_trust(path)


def erase_rows(root: AnyPath, through: Callable[[str, str], str]) -> int:
    """See :func:`sluice.adapters.parquet.erasure.erase_rows`."""
    from sluice.adapters.parquet.erasure import erase_rows as erase

    return erase(root, through)


def apply_topics(
    settings: Settings,
    bootstrap: str | None,
    *,
    partitions: int | None,
    replication: int | None,
    dry_run: bool,
) -> list[Change]:
    """Make the topics as they must be. Raises Misconfigured, Unavailable."""
    from sluice.adapters.kafka import topics
    from sluice.bootstrap.brokers import reached

    kafka = settings.kafka
    return topics.apply(
        reached(kafka, bootstrap),
        topics.Topics(kafka.topic_prefix),
        partitions=partitions,
        replication=replication,
        dry_run=dry_run,
        extra=kafka.extra(),
    )


def existing_topics(settings: Settings, bootstrap: str | None) -> list[Existing]:
    """The topics as the broker has them. Raises Unavailable."""
    from sluice.adapters.kafka import topics
    from sluice.bootstrap.brokers import reached

    kafka = settings.kafka
    names = topics.Topics(kafka.topic_prefix)
    return list(topics.existing(reached(kafka, bootstrap), names, extra=kafka.extra()))


def acl_commands(settings: Settings, bootstrap: str | None) -> Iterator[str]:
    """What an administrator types to grant each service what it needs."""
    from sluice.adapters.kafka import rights

    kafka = settings.kafka
    return rights.commands(bootstrap or kafka.bootstrap, kafka.topic_prefix)


@dataclass(frozen=True, slots=True)
class DeadLetterParts:
    """What lists and redrives. sender: None unless messages are to be sent again."""

    dead_letters: list[DeadLetter]
    originals: Originals
    sender: Sender | None


@contextmanager
def dead_letters(
    settings: Settings, bootstrap: str | None, *, send: bool
) -> Iterator[DeadLetterParts]:
    """All dead letters, and the way to their originals. Raises Unavailable without a broker."""
    from sluice.adapters.kafka.reader import TopicReader
    from sluice.adapters.kafka.redrive import KafkaOriginals, KafkaSender, read_dead_letters
    from sluice.adapters.kafka.topics import Topics
    from sluice.adapters.kafka.transactions import TransactionalProducer
    from sluice.bootstrap.brokers import reached

    kafka = settings.kafka
    servers = reached(kafka, bootstrap)
    topic = Topics(kafka.topic_prefix).dead_letters
    sender = None
    if send:
        # Before reading: it waits for, or fences, another redrive, whose notes are then read.
        producer = TransactionalProducer(
            servers,
            transactional_id=f"{kafka.topic_prefix}redrive",
            client_id="sluice-redrive",
            extra=kafka.extra(),
        )
        sender = KafkaSender(producer, topic)
    reader = TopicReader(servers, extra=kafka.extra())
    try:
        yield DeadLetterParts(
            list(read_dead_letters(reader, topic)), KafkaOriginals(reader), sender
        )
    finally:
        reader.close()


def publication(
    settings: Settings,
    bootstrap: str | None,
    *,
    file: Path,
    mapping: str,
    labels: str | None,
    token_key: Path | None,
    from_line: int,
    limit: int | None,
    since: int | None,
    rate: float | None,
    bad_share: float,
    bad_row: Callable[[BadRow], None],
    progress: Callable[[Report], None],
    stopping: Callable[[], bool],
) -> Callable[[], Report]:
    """A file and the topics that it goes to; called, it is published. Raises Misconfigured."""
    from sluice.adapters.files.mapping import Mapper, load_labels, load_mapping
    from sluice.adapters.files.row_batch import BATCH_ROWS
    from sluice.adapters.files.tables import Table
    from sluice.adapters.files.tokens import read_key
    from sluice.adapters.kafka.producer import EventProducer
    from sluice.adapters.kafka.topics import Topics
    from sluice.application.publish import Publisher, pace, watched
    from sluice.bootstrap.brokers import reached
    from sluice.domain.clock import SystemClock
    from sluice.domain.records.grammars import checks

    kafka = settings.kafka
    how = load_mapping(mapping)
    reported = load_labels(labels) if labels else None
    table = Table(file, how)
    check = checks(settings.decider.grammars, settings.service.region)
    key = read_key(token_key) if token_key else None
    mapper = Mapper(how, reported, table.columns, file.name, check, key)
    publisher = Publisher(
        file=file.name,
        producer=EventProducer(
            reached(kafka, bootstrap), client_id="sluice-publish", extra=kafka.extra()
        ),
        topics=Topics(kafka.topic_prefix),
        clock=SystemClock(),
        bad_row=bad_row,
        progress=progress,
        pace=pace(rate) if rate else None,
        stopping=stopping,
    )
    batches = table.batches(
        mapper.wanted,
        from_line=from_line,
        limit=limit,
        # A slow stream goes second by second, so that it stops when told.
        size=BATCH_ROWS if rate is None else min(BATCH_ROWS, max(1, int(rate))),
    )

    def publish() -> Report:
        with closing(batches):
            mapped = watched(map(mapper.apply, batches), bad_share)
            return publisher.publish(some.since(since) for some in mapped)

    return publish


class MappingLanguage(NamedTuple):
    """What a mapping can say: types whose fields are its keys, with what each means.

    tables: (key of a mapping, type, fields of it that other tables tell). bundled: name and
    paragraphs of each mapping that comes with the package.
    """

    tables: list[tuple[str, type[Any], tuple[str, ...]]]
    empty_words: tuple[str, ...]
    bundled: list[tuple[str, list[str]]]


def mapping_language() -> MappingLanguage:
    """Of the reference page."""
    from sluice.adapters.files import mapping
    from sluice.adapters.files.amounts import Amount
    from sluice.adapters.files.cells import EMPTY_WORDS
    from sluice.adapters.files.dialect import Dialect
    from sluice.adapters.files.flags import LabelMapping
    from sluice.adapters.files.label_file import LabelFile
    from sluice.adapters.files.times import Instant

    told = ("event_at", "amount", *Dialect.__struct_fields__)
    return MappingLanguage(
        [
            ("text", mapping.Text, ()),
            ("event_at", Instant, ()),
            ("amount", Amount, ()),
            ("rows", mapping.Layout, told),
            ("labels", LabelMapping, ()),
            ("label_file", LabelFile, tuple(Dialect.__struct_fields__)),
        ],
        EMPTY_WORDS,
        [(name, mapping.about(name)) for name in mapping.bundled()],
    )


@dataclass(frozen=True, slots=True)
class PastFiles:
    """Where a past lies and how it is read: what ``sluice backfill`` is told of it.

    labels: a file of our own names; with a mapping or a label file, a mapping of labels.
    """

    history: Path
    mapping: str | None
    labels: str | None
    label_file: Path | None
    token_key: Path | None
    bad_share: float


def read_past(
    settings: Settings, files: PastFiles, bad_row: Callable[[BadRow], None]
) -> tuple[Past, int]:
    """A past with our own names, or by a mapping; and labels of a file of their own that belong to
    no authorization of it. Raises Misconfigured, Rejected."""
    from sluice.adapters.files import past
    from sluice.adapters.files.tokens import read_key
    from sluice.domain.records.grammars import checks

    key = read_key(files.token_key) if files.token_key else None
    beside = None if files.label_file else files.labels
    if files.mapping:
        check = checks(settings.decider.grammars, settings.service.region)
        found = past.map_past(
            files.history, files.mapping, beside, bad_row, check, key, files.bad_share
        )
    else:
        found = past.read_past(files.history, Path(beside) if beside else None)
    if files.label_file is None:
        return found, 0
    return past.with_label_file(
        found, files.label_file, files.labels, bad_row, key, files.bad_share
    )


def rates(settings: Settings) -> Fx:
    """The reference currency and what others are worth in it. Raises Misconfigured."""
    return policies(settings).current().fx


def policies(settings: Settings) -> PolicyFiles:
    """The policy pack. Raises Misconfigured if it is wrong."""
    from sluice.adapters.policyfiles.files import PolicyFiles
    from sluice.domain.features import catalogue

    return PolicyFiles(Path(settings.decider.policy_dir), catalogue.FEATURES)


def compact_archive(root: AnyPath, keep_s: int, progress: Callable[[str], None]) -> Compacted:
    """See :func:`sluice.adapters.parquet.compact.compact`."""
    from sluice.adapters.parquet.compact import compact
    from sluice.domain.clock import SystemClock

    return compact(root, SystemClock().now_us(), keep_s, progress)


class _Past:
    """A past in parquet, and the archive that it goes to.

    See :class:`sluice.application.load_history.PastSource`.
    """

    def __init__(self, past: Past, root: AnyPath, threads: int) -> None:
        self._past, self._root, self._threads = past, root, threads

    def history(self) -> History:
        """See the port."""
        from sluice.adapters.arrow import unsorted_history

        return unsorted_history(self._past.authorizations)

    def labels(self) -> PastLabels:
        """See the port."""
        from sluice.adapters.files.history import labels_from

        return labels_from(self._past.labels)

    def files(self, amounts: Ints, reference: str) -> _PastFiles:
        """See the port."""
        from sluice.adapters.parquet.history import HistoryFiles, fingerprint

        authorizations, labels = self._past.authorizations, self._past.labels
        mark = fingerprint(authorizations, labels, amounts, reference)
        files = HistoryFiles(self._root, mark, threads=self._threads)
        return _PastFiles(files, self._past, amounts, reference)


@dataclass(frozen=True, slots=True)
class _PastFiles:
    """See :class:`sluice.application.load_history.FeatureFiles`."""

    to: HistoryFiles
    past: Past
    amounts: Ints
    reference: str

    def write(self, first: int, features: Ints) -> int:
        """See the port."""
        some = slice(first, first + len(features))
        rows = self.past.authorizations.slice(first, len(features))
        return self.to.write_history(first, rows, self.amounts[some], self.reference, features)

    def write_labels(self) -> int:
        """See the port."""
        return self.to.write_labels(self.past.labels)


def archive_past(
    past: Past,
    fx: Fx,
    root: AnyPath,
    *,
    threads: int = 1,
    keep_states: bool = True,
    progress: Callable[[int, int], None] = lambda done, rows: None,
) -> ArchivedPast:
    """See :func:`sluice.application.load_history.archive`."""
    from sluice.application.load_history import archive

    return archive(
        _Past(past, root, threads), fx, threads=threads, keep_states=keep_states, progress=progress
    )


def check_archive(root: AnyPath) -> None:
    """Ask, before an hour of computing, whether the archive can be written to. Raises
    Misconfigured, Unavailable."""
    import os

    from sluice.adapters.storage import folder
    from sluice.errors import Misconfigured

    if not isinstance(root, Path):
        folder(root).prepare()
        return
    there = next(one for one in (root, *root.absolute().parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise Misconfigured(
            f"the archive cannot be written to: {there} is no folder of ours",
            where="archiver.root",
            fix="a folder that may be written to, or the right to write there",
        )


def check_store(settings: Settings) -> None:
    """Ask likewise whether the online store takes states. Raises Unavailable, Misconfigured."""
    from sluice.application.rebuild import check_policy
    from sluice.bootstrap import services
    from sluice.errors import Misconfigured, Unavailable

    if why := services.store_trouble(settings):
        raise Unavailable(f"no TLS with the online store: {why}", where="store.url")
    online = services.store(settings)
    store, watermark = online.states(), online.watermark()
    try:
        watermark.adopt()
        check_policy(_eviction_policy(store))
        if _is_replica(store):
            raise Misconfigured(
                "the online store is a replica, which takes no writes",
                where="store.url",
                fix="the address of its primary",
            )
    finally:
        store.close()
        watermark.close()


def store_past(settings: Settings, states: Iterable[StateUpdate]) -> Stored:
    """Load the states of a past into the online store, and mark it as ready. Raises Unavailable,
    Misconfigured."""
    from sluice.application.load_history import store_states
    from sluice.application.rebuild import check_policy
    from sluice.bootstrap import services

    online = services.store(settings)
    store, watermark = online.states(), online.watermark()
    try:
        check_policy(_eviction_policy(store))
        watermark.adopt()
        stored = store_states(states, store)
        watermark.initialise()
    finally:
        store.close()
        watermark.close()
    return stored


@contextmanager
def rebuild(
    settings: Settings,
    root: AnyPath,
    *,
    topic_alone: bool,
    accept_gaps: bool,
    processes: int,
    report: Say,
    keep: Say,
) -> Iterator[Rebuild]:
    """A rebuild of the online store, from the archive if it holds something.

    report: how far it is; keep: what stays to be read. Raises Misconfigured, Unavailable.
    """
    from sluice.adapters.kafka.groups import Group
    from sluice.adapters.kafka.reader import TopicReader
    from sluice.adapters.kafka.topic_ids import TopicIds
    from sluice.adapters.parquet.archive import Archive
    from sluice.application.rebuild import Rebuild, TopicNames, check_archive
    from sluice.bootstrap import services
    from sluice.bootstrap.brokers import reached

    names, archive = services.topics(settings), Archive(root)
    use = not topic_alone and any(
        archive.files(kind) for kind in ("decisions", "labels", "history")
    )
    keep(f"from {root} and the topics" if use else "from the topics alone")
    online = services.store(settings)
    store, watermark = online.states(), online.watermark()
    kafka = settings.kafka
    reader = TopicReader(reached(kafka), extra=kafka.extra())
    try:
        if use:
            wanted = {names.decisions: "decisions", names.labels: "labels"}
            ids = TopicIds(kafka.bootstrap, wanted, client_id="sluice-rebuild", extra=kafka.extra())
            check_archive(
                {topic: archive.topic_ids(kind) for topic, kind in wanted.items()}, ids.ask()
            )
        yield Rebuild(
            watermark=watermark,
            group=Group(
                kafka.bootstrap, services.group("featurizer", settings), extra=kafka.extra()
            ),
            log=reader,
            topics=TopicNames(names.decisions, names.labels, names.observations),
            clear=store.clear,
            fill=partial(_fill, settings, root, processes, report, keep) if use else None,
            archived=_archived(archive, names.decisions, names.labels) if use else {},
            policy=partial(_eviction_policy, store),
            accept_gaps=accept_gaps,
            report=report,
        )
    finally:
        reader.close()
        store.close()
        watermark.close()


def _eviction_policy(states: StateStore) -> str:
    """UNKNOWN where the store hides it."""
    from sluice.application.ports import UNKNOWN
    from sluice.errors import Unavailable

    try:
        return states.info().eviction_policy
    except Unavailable:
        return UNKNOWN


def _is_replica(states: StateStore) -> bool:
    """False where the store hides it."""
    from sluice.errors import Unavailable

    try:
        return states.info().replica
    except Unavailable:
        return False


def _archived(archive: Archive, decisions: str, labels: str) -> dict[tuple[str, int], int]:
    """Offset behind the archive's last record, by topic and partition."""
    return {
        (topic, partition): last + 1
        for topic, kind in ((decisions, "decisions"), (labels, "labels"))
        for partition, last in archive.ends(kind).items()
    }


def _fill(settings: Settings, root: AnyPath, processes: int, report: Say, keep: Say) -> None:
    """States on all cores, then the answers still remembered."""
    from sluice.adapters.parquet.archive import Archive
    from sluice.adapters.parquet.event_history import ArchiveEventHistory
    from sluice.application.fill_states import fill_states, remember
    from sluice.bootstrap import services
    from sluice.domain.clock import SECOND_US, SystemClock

    events = ArchiveEventHistory(root).events()
    states = fill_states(partial(_write_bucket, settings, root), events, processes, report)
    since_us = SystemClock().now_us() - settings.store.answer_ttl_s * SECOND_US
    store = services.store(settings).states()
    try:
        decided = ((held.decision, held.record) for held in Archive(root).decided_since(since_us))
        keep(f"{states:,} states and {remember(decided, store):,} answers from the archive")
    finally:
        store.close()


def _write_bucket(settings: Settings, root: AnyPath, number: int, of: int) -> int:
    """Runs in a process of its own. Returns the number of states written."""
    from sluice.adapters.parquet.event_history import ArchiveEventHistory, Bucket
    from sluice.application.fill_states import write_states
    from sluice.bootstrap import services

    store = services.store(settings).states()
    try:
        event_history = ArchiveEventHistory(root).read(Bucket(number, of))
        return write_states(event_history, store)
    finally:
        store.close()


def smoke_test(
    settings: Settings,
    url: str,
    *,
    tenant: str,
    token_file: Path | None,
    tls_files: tuple[str, str, str],
    timeout_s: float,
) -> Seen:
    """One authorization through a whole deployment. tls_files: CA, certificate and key of a client
    of the sync API, "" for none. Raises Unavailable, Rejected, Corrupt, Misconfigured."""
    from sluice.adapters import tls
    from sluice.adapters.kafka.reader import NewRecords, TopicReader
    from sluice.adapters.kafka.topics import Topics
    from sluice.adapters.syncapi import SyncApiClient
    from sluice.application.smoke_test import smoke_test as test
    from sluice.bootstrap.brokers import reached
    from sluice.bootstrap.services import store
    from sluice.domain.clock import SystemClock
    from sluice.domain.records.authorization import Authorization, Channel

    clock = SystemClock()
    # Letters alone: digits at random may look like a card number.
    word = "smoke-test-" + "".join(secrets.choice(string.ascii_lowercase) for _ in range(20))
    auth = Authorization(
        authorization_id=word,
        event_at=clock.now_us(),
        card_token=word,
        merchant_id=word,
        terminal_id=word,
        mcc="5999",
        channel=Channel.ECOM,
        amount_minor=1,
        currency="EUR",
        merchant_country="BE",
        card_country="BE",
        region="smoke-test",
        tenant=tenant,
    )
    api = SyncApiClient(url, token_file=token_file, files=tls.Files("smoke-test", *tls_files))
    kafka = settings.kafka
    reader = TopicReader(reached(kafka), extra=kafka.extra())
    states = store(settings).states()
    try:
        return test(
            auth,
            api=api,
            decisions=NewRecords(reader, Topics(kafka.topic_prefix).decisions),
            states=states,
            clock=clock,
            wait=time.sleep,
            timeout_s=timeout_s,
        )
    finally:
        states.close()
        reader.close()


def find_decisions(root: AnyPath, authorization_id: str) -> list[Archived]:
    """The decisions of one authorization id, the one that counts first; none if the archive has
    none."""
    from sluice.adapters.parquet.archive import Archive

    return Archive(root).find(authorization_id)


def find_labels(root: AnyPath, authorization_id: str) -> list[Label]:
    """Every report of one authorization, as they came."""
    from sluice.adapters.parquet.archive import Archive

    return Archive(root).labels_of(authorization_id)


def label_maturity(root: AnyPath, complete_days: int) -> list[Maturity]:
    """What share of the frauds was known after how many days, from the labels of an archive. A
    label log ends with what it holds: its newest known_at is its time."""
    from sluice.adapters.parquet.archive import Archive
    from sluice.application.label_maturity import Delays

    delays, until_us = Delays(), 0
    archive = Archive(root)
    for kind in ("history_labels", "labels"):
        for label in archive.labels(kind):
            delays.add(label)
            until_us = max(until_us, label.known_at)
    return delays.by_channel_and_source(until_us, complete_days)


def sending_reports(
    file: Path,
    url: str,
    *,
    columns: Mapping[str, str],
    constants: Mapping[str, str],
    token_file: Path | None,
    tls_files: tuple[str, str, str],
    from_line: int,
    bad: Callable[[str, str, str], None],
    progress: Callable[[Sent], None],
    stopping: Callable[[], bool],
) -> Callable[[], Sent]:
    """A file of reports and the labeller that it goes to; called, it is sent. tls_files: CA,
    certificate, key. Raises Misconfigured, Unavailable, Rejected."""
    from sluice.adapters import tls
    from sluice.adapters.files.reports import ReportFile
    from sluice.adapters.syncapi import LabellerClient
    from sluice.application.send_reports import send

    rows = ReportFile(file, columns, constants).rows(from_line)
    api = LabellerClient(url, token_file=token_file, files=tls.Files("labels", *tls_files))
    return partial(send, rows, api, bad=bad, progress=progress, stopping=stopping)


def consistency_gate(
    root: AnyPath, *, sample_ppm: int, count: int, at_least: int, spread: Spread
) -> Gate:
    """See :func:`sluice.application.consistency.gate`."""
    from sluice.adapters.parquet.samples import ArchiveSampleSource
    from sluice.application.consistency import gate

    return gate(ArchiveSampleSource(root), sample_ppm, count, at_least, spread=spread)


def library(
    settings: Settings, policies: Sequence[Path], releases: Sequence[Path], trust: Path | None
) -> FolderLibrary:
    """Policies and releases that once decided, in the folders named or those of the settings."""
    from sluice.bootstrap.library import FolderLibrary
    from sluice.bootstrap.release_folder import look_for_releases, release_folder

    decider = settings.decider
    return FolderLibrary(
        policies or [Path(decider.policy_dir)],
        releases or [release_folder(settings)],
        trust or Path(decider.trust_dir),
        (lambda: None) if releases else partial(look_for_releases, settings),
    )


def replay_sample(root: AnyPath, held: FolderLibrary, count: int, seed: int) -> Gate:
    """Replay ``count`` decisions drawn at random; the same seed draws the same."""
    from sluice.adapters.parquet.samples import ArchiveSampleSource
    from sluice.application.consistency import at_random, gate_of

    source = ArchiveSampleSource(root)
    ends = source.ends()
    return gate_of(source, at_random(source, count, seed, ends), ends, count, held)


def replay_one(
    root: AnyPath,
    held: FolderLibrary,
    authorization_id: str,
    *,
    changes: Sequence[str] = (),
    policy: Path | None = None,
    release: Path | None = None,
    flips: bool = False,
) -> Replayed | None:
    """Replay the decision of an id that counts, and judge it with something changed; None if the
    archive has none. Raises Rejected for one that cannot be recomputed, Misconfigured."""
    from sluice.adapters.onnx import load
    from sluice.adapters.parquet.samples import ArchiveSampleSource
    from sluice.adapters.policyfiles import read_policy
    from sluice.application.what_if import open_case, parse_change, replayed, what_if
    from sluice.domain.features import catalogue

    source = ArchiveSampleSource(root)
    ends = source.ends()
    archived = find_decisions(root, authorization_id)
    if not archived:
        return None
    first = archived[0]
    case = open_case(source, first.decision, ends, held)
    told = None
    if changes or policy or release or flips:
        d = first.decision
        told = what_if(
            case,
            held,
            change=parse_change(changes, d.authorization),
            policy=read_policy(policy, catalogue.FEATURES) if policy else None,
            scorer=load(
                release,
                held.trusted(),
                catalogue.FEATURES,
                d.reference_currency,
                entrypoint=d.entrypoint,
            )
            if release
            else None,
            flips=flips,
        )
    place = f"decisions.v1/{first.partition}@{first.offset}"
    return replayed(case, place, first.record, told)


def impact(
    root: AnyPath,
    policy: Path,
    release: Path | None,
    trust: Path,
    *,
    days: int,
    until: int | None,
    progress: Callable[[int], None],
) -> Impact:
    """What a policy or a release would have said of the days up to a moment, None for the newest
    decision. Raises Rejected where there are no decisions, Misconfigured, Corrupt."""
    from sluice.adapters.onnx import load
    from sluice.adapters.onnx.release import read_trust_of_any_time
    from sluice.adapters.parquet.impact import ArchiveImpactLog
    from sluice.adapters.policyfiles import read_policy
    from sluice.application.impact import impact as judge
    from sluice.domain.clock import DAY_US
    from sluice.domain.features import catalogue

    by = read_policy(policy, catalogue.FEATURES)
    scorer = None
    if release is not None:
        keys = read_trust_of_any_time(trust)
        scorer = load(release, keys, catalogue.FEATURES, by.fx.reference)
    log = ArchiveImpactLog(root)
    end = log.newest_us() + 1 if until is None else until
    return judge(log.pieces(end - days * DAY_US, end), by, scorer, progress)


@contextmanager
def training_logs(
    root: AnyPath, repo: Path, orders: Sequence[Order], spread: Spread, threads: int = 1
) -> Iterator[list[TrainingLog]]:
    """The feature log, joined by Feast, for each of some orders. What they share of the work, the
    features of labels held back, is made once, in a folder that goes with them."""
    import tempfile

    from sluice.adapters.feast.training_log import FeastTrainingLog
    from sluice.adapters.parquet.feature_log import FeatureLog
    from sluice.adapters.parquet.held_back import write_held_back
    from sluice.domain.clock import SECOND_US

    until_us = max(order.until_us for order in orders)

    def log(order: Order) -> FeatureLog:
        # Features made anew depend on all that came before.
        first_us = 0 if order.hold_labels else order.log_first_us
        return FeatureLog(root, first_us, order.until_us)

    with tempfile.TemporaryDirectory(prefix="sluice-held-back-") as folder:

        def held(order: Order) -> FeatureLog:
            there = Path(folder, f"{order.label_delay_s}")
            if not there.exists():
                delay_us = order.label_delay_s * SECOND_US
                write_held_back(root, there, until_us, delay_us, threads=threads)
            return FeatureLog(there, order.log_first_us, order.until_us)

        yield [
            FeastTrainingLog(partial(log, order), partial(held, order), repo, order, spread)
            for order in orders
        ]


def compile_service(repository: Path, service: str) -> Plan:
    """The plan of a feature service, from Feast's registry. Raises Misconfigured."""
    from sluice.adapters.feast.registry import compile_service

    return compile_service(repository, service)


class Verified(NamedTuple):
    """A release that passed every check of a decider that has seen none before. signer: id of the
    key. activation: None without one."""

    manifest: Manifest
    signer: str
    activation: Checked | None


def verify_release(folder: Path, trust: Path, policy: Path) -> Verified:
    """Check a release as the deciders of both entrypoints do, warm-up included. policy: whose
    reference currency it must be of. A certificate in it must be of its graphs, by a trusted key.
    Raises Corrupt, Misconfigured."""
    from sluice.adapters.onnx import load, read_trust, verify
    from sluice.adapters.policyfiles import read_policy
    from sluice.application.judging.certificate import check_certificate, read_certificate
    from sluice.domain.features import catalogue
    from sluice.domain.records.decision import ENTRYPOINTS
    from sluice.domain.release import CERTIFICATE, MODEL_INT8

    trusted = read_trust(trust)
    manifest, files, signer = verify(folder, trusted)
    if CERTIFICATE in manifest.files:
        verdict, _ = read_certificate(files[CERTIFICATE], trusted)
        check_certificate(verdict, manifest, MODEL_INT8)
    currency = read_policy(policy, catalogue.FEATURES).fx.reference
    for entrypoint in (None, *ENTRYPOINTS):
        load(folder, trusted, catalogue.FEATURES, currency, entrypoint=entrypoint)
    return Verified(manifest, signer, verify_activation("release", folder, trust, approvals=0))


def pack_release(folder: Path, description: Path) -> Manifest:
    """Write the manifest of a model, of a description in YAML. Raises Misconfigured."""
    from sluice.adapters.onnx import Description, write_manifest
    from sluice.errors import Misconfigured
    from sluice.yaml_files import decode_as

    where, fix = str(description), "docs/reference/release.md"
    try:
        raw = description.read_bytes()
    except OSError as exc:
        raise Misconfigured(str(exc), where=where, fix=fix) from exc
    return write_manifest(folder, decode_as(Description, raw, where, fix=fix))


def add_reference(folder: Path, dataset: Path, split: str) -> Reference:
    """Compute the population of a packed release from a split of a training set, and write it into
    the release, which is to be signed again. Raises Misconfigured, Corrupt, Rejected."""
    from datetime import datetime

    import msgspec
    import numpy as np

    from sluice.adapters.arrow import code_texts, ints
    from sluice.adapters.onnx import add_file, scorer_of_columns
    from sluice.adapters.parquet.dataset import dataset_digest, read_manifest, read_split
    from sluice.application.drift import reference_of
    from sluice.application.judging.measures import Window
    from sluice.application.sign_release import read_manifest as read_release
    from sluice.domain.clock import from_datetime
    from sluice.domain.reference import Column
    from sluice.domain.release import REFERENCE

    names = read_release(folder).names
    of_split = read_manifest(dataset).split(split)
    known = ("card_token", "event_at", "amount_minor", "is_fraud", "weight", *SEGMENTS)
    table = read_split(dataset, split, list(dict.fromkeys((*known, *names))))
    rows = np.stack([ints(table, name) for name in names], axis=1)
    score = scorer_of_columns(folder).score(rows).ppm
    window = Window(
        table["is_fraud"].to_numpy(),
        ints(table, "amount_minor"),
        code_texts(table["card_token"]).codes,
        ints(table, "event_at"),
        table["weight"].to_numpy().astype(np.float64),
    )
    reference = reference_of(
        rows,
        score,
        window,
        [Column(by, table[by].to_pylist()) for by in SEGMENTS],
        data=dataset_digest(dataset),
        split=split,
        since=from_datetime(datetime.fromisoformat(of_split.first)),
        until=from_datetime(datetime.fromisoformat(of_split.until)),
    )
    add_file(folder, REFERENCE, msgspec.json.encode(reference))
    return reference


SEGMENTS = ("channel", "region")
"""Columns that cut the traffic in a reference and a drift report."""


def drift_report(
    settings: Settings,
    root: AnyPath,
    release: Path,
    trust: Path,
    *,
    since: int,
    until: int,
    mature_before: int,
    progress: Callable[[int], None],
) -> DriftReport:
    """What the archive holds of a time, against a release's reference. mature_before: event time
    before which labels are taken to have come. Raises Misconfigured, Corrupt, Unavailable."""
    from sluice.adapters.onnx import load, read_trust
    from sluice.adapters.parquet.drift import ArchiveDriftLog
    from sluice.application.drift import drift
    from sluice.domain.features import catalogue

    scorer = load(release, read_trust(trust), catalogue.FEATURES, rates(settings).reference)
    log = ArchiveDriftLog(root, since, until, mature_before, SEGMENTS)
    return drift(log, scorer, since, until, progress)


def act_on(
    what: What, folder: Path, key_file: Path, *, kind: Act, who: str, why: str
) -> Activation:
    """Sign that what is in a folder may decide. Raises Misconfigured, Corrupt for a release whose
    files are not the ones that its manifest names."""
    from sluice.adapters.trustfiles import ActivationFile
    from sluice.application.activate import act
    from sluice.application.sign_release import read_private_key
    from sluice.domain.clock import SystemClock

    if what == "release" and _holds_releases(folder):
        beside = steps(folder, key_file, who=who, why=why)
        return beside.rollback() if kind == "rollback" else beside.again(kind)
    name, digest = _identity(what, folder)
    return act(
        ActivationFile(folder),
        read_private_key(key_file),
        SystemClock(),
        what=what,
        name=name,
        digest=digest,
        kind=kind,
        who=who,
        why=why,
    )


def _holds_releases(folder: Path) -> bool:
    """Whether it is a folder of releases, rather than a release."""
    from sluice.domain.release import FILES

    return folder.is_dir() and not any((folder / name).exists() for name in FILES)


def releases_of(settings: Settings) -> Path:
    """What lies at decider.release_dir: the folder, or a copy of the URL made now. Raises
    Unavailable, Misconfigured."""
    from sluice.bootstrap.release_folder import look_for_releases, release_folder

    look_for_releases(settings)
    return release_folder(settings)


def champion_in(folder: Path, trust: Path) -> Path:
    """A release's folder as it is; of a folder of releases that of its champion.
    Raises Misconfigured if there is none, Corrupt if nobody who is trusted signed it."""
    from sluice.adapters.onnx import read_trust
    from sluice.adapters.trustfiles import ActivationFile
    from sluice.domain.activation import champion_of
    from sluice.errors import Misconfigured

    if not _holds_releases(folder):
        return folder
    name = champion_of(ActivationFile(folder).read(), read_trust(trust))
    if name is None:
        raise Misconfigured(
            "no release is the champion yet", where=str(folder), fix="sluice release promote"
        )
    return folder / name


class _ReleasesFolder:
    """The port Releases (:mod:`sluice.application.promote`)."""

    def __init__(self, folder: Path) -> None:
        from sluice.adapters.trustfiles import ActivationFile

        self._folder = folder
        activation = ActivationFile(folder)
        self.read, self.replace = activation.read, activation.replace

    def identity(self, name: str) -> tuple[Named, int]:
        """See the port."""
        from sluice.application.sign_release import read_manifest
        from sluice.domain.activation import Named
        from sluice.errors import Misconfigured

        folder = self._folder / name
        found, digest = _identity("release", folder)
        if found != name:
            raise Misconfigured(
                f"the release in it is {found}", where=str(folder), fix="name the folder by its id"
            )
        return Named(found, digest), read_manifest(folder).created_at


def steps(
    folder: Path,
    key_file: Path,
    *,
    who: str,
    why: str,
    expect: int | None = None,
    once: bool = False,
) -> Steps:
    """The steps of a folder of releases. Raises Misconfigured."""
    from sluice.application.promote import Steps
    from sluice.application.sign_release import read_private_key
    from sluice.domain.clock import SystemClock

    releases = _releases(folder)
    key = read_private_key(key_file)
    return Steps(releases, key, SystemClock(), who=who, why=why, expect=expect, once=once)


def held(settings: Settings, folder: Path, name: str, role: Role) -> Activation:
    """What lies in a folder of releases, if a release is in that role and nobody took it out.
    Raises Misconfigured if not, Unavailable if nobody can say."""
    from sluice.application.promote import check_held

    return check_held(_releases(folder), name, role, lambda us: returned(settings, us))[0]


def _releases(folder: Path) -> _ReleasesFolder:
    from sluice.errors import Misconfigured

    if not _holds_releases(folder):
        raise Misconfigured(
            "this is one release, not a folder of releases",
            where=str(folder),
            fix="docs/reference/rollout.md",
        )
    return _ReleasesFolder(folder)


def returned(settings: Settings, epoch: int) -> list[Rollout]:
    """Canaries and shadows of an epoch that went back by themselves, as deciders wrote it. Raises
    Unavailable, Misconfigured."""
    from sluice.adapters.kafka.reader import TopicReader
    from sluice.adapters.kafka.rollouts import EVENTS_MAX, written_since_ms
    from sluice.adapters.kafka.rollouts import returned as among
    from sluice.adapters.kafka.topics import Topics
    from sluice.bootstrap.brokers import reached

    kafka = settings.kafka
    reader = TopicReader(reached(kafka), extra=kafka.extra())
    try:
        topic = Topics(kafka.topic_prefix).rollouts
        return among(reader.tail(topic, EVENTS_MAX, written_since_ms(epoch)), epoch)
    finally:
        reader.close()


class Listed(NamedTuple):
    """A folder of releases. broken: what is wrong, by the name of a folder that holds none that can
    be read."""

    activation: Activation | None
    signers: list[str]
    releases: list[tuple[Manifest, str]]
    broken: dict[str, str]


def list_releases(folder: Path) -> Listed:
    """What lies there, unverified, the newest release first. Raises Misconfigured."""
    import hashlib

    from sluice.adapters.trustfiles import ActivationFile
    from sluice.application.sign_release import read_manifest
    from sluice.domain.activation import decode, named_signers
    from sluice.domain.release import MANIFEST
    from sluice.errors import Misconfigured, SluiceError

    if not folder.is_dir():
        raise Misconfigured("this is no folder", where=str(folder))
    signed = ActivationFile(folder).read()
    releases, broken = [], {}
    for path in sorted(folder.glob(f"*/{MANIFEST}")):
        if path.parent.is_symlink():
            continue
        try:
            manifest = read_manifest(path.parent)
        except SluiceError as error:
            broken[path.parent.name] = error.what
        else:
            releases.append((manifest, hashlib.sha256(path.read_bytes()).hexdigest()))
    releases.sort(key=lambda pair: -pair[0].created_at)
    return Listed(
        None if signed is None else decode(signed.statement),
        [] if signed is None else named_signers(signed),
        releases,
        broken,
    )


def approve(what: What, folder: Path, key_file: Path) -> tuple[Activation, int]:
    """Add a signature to the activation in a folder. Returns it, and how many it has. Raises
    Misconfigured, Corrupt."""
    from sluice.adapters.trustfiles import ActivationFile
    from sluice.application import activate
    from sluice.application.sign_release import read_private_key
    from sluice.domain.activation import decode

    key = read_private_key(key_file)
    store = ActivationFile(folder)
    if what == "release" and _holds_releases(folder):
        signed = store.read()
        digest = "" if signed is None else decode(signed.statement).digest
    else:
        _, digest = _identity(what, folder)
    return activate.approve(store, key, what=what, digest=digest)


def verify_activation(what: What, folder: Path, trust: Path, *, approvals: int) -> Checked | None:
    """Check the activation in a folder as a decider does that has seen none before. None without
    one, where none is needed. Raises Corrupt, Misconfigured."""
    from sluice.adapters.onnx import read_trust
    from sluice.adapters.trustfiles import ActivationFile
    from sluice.domain.activation import Known, check
    from sluice.domain.clock import SystemClock

    _, digest = _identity(what, folder)
    return check(
        ActivationFile(folder).read(),
        read_trust(trust),
        what=what,
        digest=digest,
        approvals=approvals,
        known=Known(),
        now_us=SystemClock().now_us(),
    )


def show_policy(folder: Path) -> tuple[str, Activation | None, list[str]]:
    """A pack's id, its activation, and the ids of the keys that approved it, unchecked. Raises
    Misconfigured."""
    from sluice.adapters.trustfiles import ActivationFile
    from sluice.domain.activation import POLICY, decode, named_signers

    name, _ = _identity(POLICY, folder)
    signed = ActivationFile(folder).read()
    if signed is None:
        return name, None, []
    return name, decode(signed.statement), named_signers(signed)


def _identity(what: What, folder: Path) -> tuple[str, str]:
    """Name and digest of what is in a folder, as an activation says them."""
    import hashlib

    from sluice.domain.features import catalogue

    if what == "policy":
        from sluice.adapters.policyfiles import read_policy

        policy = read_policy(folder, catalogue.FEATURES)
        return policy.id, policy.digest
    from sluice.adapters.onnx.release import read_files, read_optional
    from sluice.domain.release import MANIFEST, check_files, decode_manifest

    files = read_files(folder)
    manifest = decode_manifest(files[MANIFEST], str(folder / MANIFEST))
    check_files(manifest, files | read_optional(folder, manifest))
    return manifest.id, hashlib.sha256(files[MANIFEST]).hexdigest()


def cluster(namespace: str, context: str) -> Kubectl:
    """What looks at a Helm release. Raises Misconfigured without kubectl."""
    from sluice.adapters.kubernetes import Kubectl

    return Kubectl(namespace, context)
