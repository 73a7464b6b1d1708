"""The parts of the auditor: the log, its records, and what it reads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sluice import BUILD, telemetry
from sluice.adapters import kernel_clock
from sluice.adapters.kafka.checkpoints import CheckpointTopic
from sluice.adapters.kafka.reader import TopicReader
from sluice.adapters.kafka.shard import ShardConsumer
from sluice.adapters.kafka.transactions import TransactionalProducer
from sluice.adapters.keystore.sqlite import NO_KEYSTORE
from sluice.adapters.tiles.ahead import WriteAheadFiles
from sluice.adapters.tiles.folder import LogFolder
from sluice.application.append_log import CHECKPOINT, RUNBOOK, AppendLog
from sluice.application.cosigners import Cosigners
from sluice.application.keep_log import KeepsLog
from sluice.application.log_keys import make_log_key
from sluice.application.log_records import LogRecords
from sluice.application.sign_release import read_private_key
from sluice.audit.notes import LOG, Key
from sluice.bootstrap.beside_log import cosigners, retired, witnesses
from sluice.bootstrap.keystore import make_keystore, open_keystore
from sluice.bootstrap.services import group, topics
from sluice.domain.clock import SystemClock
from sluice.domain.records.log_record import Provenance
from sluice.errors import Misconfigured, Unavailable
from sluice.settings import Settings, digest_of


@dataclass(frozen=True, slots=True)
class AuditorParts:
    """What the auditor's handler drives. The loop closes the consumer. key: by which readers know
    the log's checkpoints."""

    key: Key
    consumer: ShardConsumer
    keeps: KeepsLog
    beside: ThreadPoolExecutor
    reader: TopicReader
    close_keystore: Callable[[], None]
    cosigners: Cosigners

    def close(self) -> None:
        """End the thread beside, and let another process have the log."""
        self.beside.shutdown()
        self.cosigners.close()
        self.keeps.close()
        self.reader.close()
        self.close_keystore()


def sources(settings: Settings) -> list[str]:
    """The topics that the log is of."""
    names = topics(settings)
    return [names.decisions, names.labels, names.dead_letters, names.rollouts]


def origin(settings: Settings) -> str:
    """Name of the log. Raises Misconfigured."""
    given = settings.auditor
    if given.shard >= given.shards:
        raise Misconfigured(
            f"shard {given.shard} of {given.shards}: they are numbered from 0",
            where="auditor.shard",
        )
    return f"{given.environment}/{given.cell}/{given.shard}"


def verifier_key(settings: Settings) -> Key:
    """By which readers know the log's checkpoints. Raises Misconfigured."""
    private = read_private_key(Path(settings.auditor.key_file))
    return Key(origin(settings), LOG, private.public_key())


def prepare_keys(settings: Settings) -> None:
    """See that the log's key is there and its keystore opens; with ``auditor.make_keys`` make them
    where they are not, and no checkpoint of the log ever was. Shard 0 makes the keystore for all.

    Raises Unavailable while a broker, a KMS or the keystore that shard 0 makes is not there;
    Misconfigured, with code ``keys_gone`` where a log with records lacks them; Corrupt.
    """
    given = settings.auditor
    if given.make_keys:
        _make_keys(settings)
    try:
        open_keystore(settings).close()
    except Misconfigured as error:
        if error.code == NO_KEYSTORE and given.make_keys and given.shard:
            raise Unavailable("shard 0 has not made the keystore yet", where=error.where) from error
        raise


def _make_keys(settings: Settings) -> None:
    given = settings.auditor
    key, keystore = Path(given.key_file), Path(settings.keystore.path)
    lacking = [
        str(path)
        for path, ours in ((key, True), (keystore, not given.shard))
        if ours and not path.exists()
    ]
    if not lacking:
        return
    if _has_checkpoint(settings):
        raise Misconfigured(
            f"this log has checkpoints, and lacks what it was written with: {', '.join(lacking)}",
            where=origin(settings),
            fix=f"bring the volume of the keys back: {RUNBOOK}",
            code="keys_gone",
        )
    if str(key) in lacking:
        key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = make_log_key(key, origin(settings), witness=False)
        telemetry.event("key_made", log=origin(settings), verifier=str(made))
    if str(keystore) in lacking:
        make_keystore(settings)
        telemetry.event("keystore_made", path=str(keystore))


def _has_checkpoint(settings: Settings) -> bool:
    root = Path(settings.auditor.root)
    if (root / str(settings.auditor.shard) / CHECKPOINT).exists():
        return True
    return _published(settings, f"auditor-{settings.service.name()}").newest() is not None


def _published(settings: Settings, client_id: str) -> CheckpointTopic:
    name = origin(settings)
    bootstrap, extra = settings.kafka.bootstrap, settings.kafka.extra()
    return CheckpointTopic(
        topics(settings).checkpoints,
        name,
        partial(TopicReader, bootstrap, extra=extra),
        partial(
            TransactionalProducer,
            bootstrap,
            transactional_id=f"{settings.kafka.topic_prefix}sluice-auditor-{name}",
            client_id=client_id,
            extra=extra,
            count=telemetry.METRICS.count,
        ),
    )


def auditor(settings: Settings) -> AuditorParts:
    """The writer of one log. Fences whoever wrote it before. Raises Misconfigured, Unavailable."""
    given = settings.auditor
    name = origin(settings)
    if not given.key_file:
        raise Misconfigured(
            "the auditor signs with a key", where="auditor.key_file", fix="sluice log keygen"
        )
    private = read_private_key(Path(given.key_file))
    root = Path(given.root)
    store = LogFolder(root / str(given.shard))
    resume = LogFolder(root / f"{given.shard}.resume")
    store.prepare()
    resume.prepare()
    names = topics(settings)
    bootstrap, extra = settings.kafka.bootstrap, settings.kafka.extra()
    client_id = f"auditor-{settings.service.name()}"
    count = telemetry.METRICS.count
    published = _published(settings, client_id)
    keystore = open_keystore(settings)
    beside = ThreadPoolExecutor(1, "checkpoint")
    asked = cosigners(settings)
    reader = TopicReader(bootstrap, extra=extra)
    keeps = KeepsLog(
        AppendLog(
            store,
            WriteAheadFiles(root / f"{given.shard}.ahead"),
            published,
            origin=name,
            private=private,
            retired=retired(settings),
            cosign=asked.cosign,
        ),
        LogRecords(
            log=name,
            keystore=keystore,
            grammars=settings.decider.grammars,
            topic_prefix=settings.kafka.topic_prefix,
        ),
        resume,
        SystemClock(),
        beside.submit,
        decisions=names.decisions,
        earlier=partial(reader.between, names.decisions),
        provenance=Provenance(
            build=BUILD,
            image=settings.service.image_digest or None,
            config=digest_of(settings),
            trace=None,
        ),
        replica=settings.service.name(),
        rollouts=names.rollouts,
        witnesses=[line.key for line in witnesses(settings)],
        time_sync=kernel_clock.read,
        keystore=None if given.shard else keystore,  # the cell has one, and one log tells of it
        count=count,
    )
    consumer = ShardConsumer(
        bootstrap,
        group=f"{group('auditor', settings)}-{given.shard}",
        topics=sources(settings),
        client_id=client_id,
        shard=given.shard,
        shards=given.shards,
        extra=extra,
        count=count,
    )
    key = Key(name, LOG, private.public_key())
    return AuditorParts(key, consumer, keeps, beside, reader, keystore.close, asked)
