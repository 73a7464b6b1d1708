"""Services' parts: each service asks for its own here, and gets adapters and use cases joined."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from msgspec import structs

from sluice import settings as settings_of
from sluice import telemetry
from sluice.adapters import tls
from sluice.adapters.kafka.consumer import GroupConsumer
from sluice.adapters.kafka.decision_log import DecisionProducer
from sluice.adapters.kafka.labels import KafkaLabels
from sluice.adapters.kafka.observations import ObservationProducer
from sluice.adapters.kafka.producer import EventProducer
from sluice.adapters.kafka.reach import Brokers
from sluice.adapters.kafka.reader import TopicReader
from sluice.adapters.kafka.rollouts import RolloutTopic, ShadowTopic
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.kafka.transactions import TransactionalStream
from sluice.adapters.onnx.release import ReleaseDirectory, read_trust
from sluice.adapters.policyfiles.files import PolicyFiles
from sluice.adapters.redis import address as redis_address
from sluice.adapters.redis.refusals import LOADING
from sluice.adapters.redis.store import RedisStore
from sluice.adapters.regular_files import stamp
from sluice.adapters.trustfiles import ActivationFile, EpochFile, TrustFolder
from sluice.application.access import Clients, Tokens
from sluice.application.active import ActiveConfiguration, Limits, Remedy
from sluice.application.archive import Archiver
from sluice.application.breaker import DeclineBreaker, Trip
from sluice.application.challengers import Beside, Challengers
from sluice.application.consistency import ConsistencyCheck
from sluice.application.decide import Build, DecisionPipeline
from sluice.application.dry_run import Recent
from sluice.application.featurize import Featurizer
from sluice.application.label import Authorizations, Labeller, NoAuthorizations
from sluice.application.label_maturity import SHOWN_DAYS
from sluice.application.let_through import draw_of, refuse_undrawn
from sluice.application.once import Ids, Once
from sluice.application.population import PopulationCheck
from sluice.application.ports import (
    NOEVICTION,
    STORE_RUNBOOK,
    Consumer,
    DecisionLog,
    Message,
    OnlineConnection,
    OnlineStore,
    StateStore,
    Store,
    StoreInfo,
    Transactions,
    WatermarkStore,
)
from sluice.application.watch_store import StoreWatch
from sluice.bootstrap.archive_root import archive_root
from sluice.bootstrap.brokers import brokers as of_settings
from sluice.bootstrap.library import FolderLibrary
from sluice.bootstrap.memory import limit_memory
from sluice.bootstrap.release_folder import look_for_releases, release_folder
from sluice.domain.activation import ACTIVATION, POLICY, RELEASE, Checked, What, champion_of
from sluice.domain.clock import SECOND_US, SystemClock
from sluice.domain.features import catalogue
from sluice.domain.policy.policy import LISTS, MODEL
from sluice.domain.records.authorization import EventTimeBounds
from sluice.domain.records.decision import Entrypoint
from sluice.domain.records.grammars import checks
from sluice.domain.records.rollout import Rollout
from sluice.domain.reference import Comparison
from sluice.domain.release import FILES
from sluice.errors import Misconfigured, SluiceError, Unavailable
from sluice.settings import Settings, digest_of

TLS_MAX_S = 5.0
"""For a store's handshake, when a start asks what is wrong with it."""
COLLECT_EVERY = 50_000
"""New containers until the collector looks for cycles. A batch of 500 makes some 10,000, all alive
until it ends: Python's 700 would walk them 15 times, a tenth of the stream processor's time."""


@dataclass(frozen=True, slots=True)
class Started:
    """stop: set by SIGTERM and SIGINT. admin: the admin port, None where there is none."""

    stop: threading.Event
    admin: telemetry.AdminServer | None


def start(service: str, settings: Settings, **said: Any) -> Started:
    """Logging, memory limit, admin port, and what SIGTERM and SIGINT set. said: of the event.

    From here on the process answers its probes, whatever else is not there yet. Raises
    Misconfigured if the port is taken.
    """
    configure_logging(service, settings)
    region = settings.service.region or "any"
    telemetry.METRICS.info("sluice_region_info", region)
    memory_max_mb = limit_memory(settings.service.memory_max_mb)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    admin = open_admin_port(settings)
    telemetry.event(
        "started",
        replica=settings.service.name(),
        memory_max_mb=memory_max_mb,
        region=region,
        **said,
    )
    for name in settings_of.settings_told_as_links():
        telemetry.event(
            "service_link",
            level=logging.WARNING,
            variable=name,
            reason="Kubernetes tells of a Service by it, so the setting of this name is not read",
            fix="enableServiceLinks: false in the pod's spec, or another name for the Service",
        )
    return Started(stop, admin)


def configure_logging(service: str, settings: Settings) -> None:
    """See :func:`sluice.telemetry.configure_logging`."""
    telemetry.configure_logging(
        service, level=settings.service.log_level, id_key=settings.service.log_id_key
    )


def open_admin_port(settings: Settings) -> telemetry.AdminServer | None:
    """Metrics and health. None where there is no port. Raises Misconfigured."""
    port = settings.service.admin_port
    if not port:
        return None
    try:
        return telemetry.AdminServer(port, host=settings.service.admin_host)
    except OSError as error:
        raise Misconfigured(
            f"the admin port cannot be opened: {error.strerror}",
            where="service.admin_host, service.admin_port",
        ) from error


def unsettled() -> None:
    """Stop looking for garbage until ``settle``: imports and start make none, and looking takes a
    fifth of their time."""
    gc.disable()


def settle(every: int = COLLECT_EVERY) -> None:
    """Keep the garbage collector off what lives forever: a full pass over it takes 0.1 s, so there
    is none before either. It would find 1,000 of 171,000 containers, made by imports.

    every: new containers until it looks at what came since.
    """
    gc.freeze()
    gc.set_threshold(every)
    gc.enable()


def topics(settings: Settings) -> Topics:
    """Names of the topics."""
    return Topics(settings.kafka.topic_prefix)


def group(service: str, settings: Settings) -> str:
    """Name of a service's consumer group."""
    return f"{settings.kafka.topic_prefix}sluice-{service}"


def emitter(settings: Settings) -> str:
    """Name of this process among all that ever decided: replica and start."""
    return f"{settings.service.name()}/{time.time_ns() // 1_000_000}-{os.getpid()}"


def _address(given: settings_of.Store) -> redis_address.Address:
    """Raises Misconfigured, also where a file of TLS is missing or wrong."""
    files = tls.Files("store", given.ca_file, given.cert_file, given.key_file)
    address = replace(redis_address.parse(given.url), files=files)
    address.tls_context()
    return address


def store_trouble(settings: Settings) -> str:
    """What is wrong with the handshake of TLS with the store, in words; "" if nothing is, or if it
    speaks none. Blocks for some seconds. Raises Misconfigured if our own files are wrong."""
    scheme = settings.store.url.partition("://")[0]
    if scheme not in redis_address.SCHEMES:
        return ""
    address = _address(settings.store)
    if not address.tls:
        return ""
    return tls.diagnose(address.host, address.port, address.files, timeout_s=TLS_MAX_S)


def brokers(settings: Settings) -> Brokers:
    """Whom to ask whether they are there and have our topics. Raises Misconfigured."""
    return of_settings(settings.kafka)


def store_answers(settings: Settings) -> None:
    """Ask the online store for a sign of life. One that refuses us is there, and what follows says
    why. Raises Unavailable while it is away or loading; Misconfigured."""
    watermark = store(settings).watermark()
    try:
        watermark.read()
    except SluiceError as error:
        if error.code == Misconfigured.code:
            raise
        if error.code in (Unavailable.code, LOADING):
            why = store_trouble(settings)
            raise (
                Unavailable(f"no TLS with the online store: {why}", where="store.url")
                if why
                else error
            ) from error
    finally:
        watermark.close()


def policy_holds(settings: Settings) -> None:
    """Read policy and trust while the release is not there yet: a mistake in them is said at once.
    Raises Misconfigured."""
    _deciding_policies(settings)
    read_trust(Path(settings.decider.trust_dir))


def release_there(settings: Settings) -> None:
    """Raises Unavailable if the release folder is not there or holds neither a file of a release
    nor an activation. What lies there otherwise is judged by whoever loads it."""
    look_for_releases(settings)
    folder = release_folder(settings)
    if not any(stamp(folder / name) for name in (*FILES, ACTIVATION)):
        raise Unavailable(
            "no release is there",
            where=settings.decider.release_dir,
            fix="decider.release_dir, or put a signed release there: docs/reference/release.md",
        )


STORES: dict[str, Callable[[settings_of.Store], Store]] = dict.fromkeys(
    redis_address.SCHEMES,
    lambda given: RedisStore(
        _address(given),
        SystemClock(),
        budget_s=given.budget_ms / 1000,
        batch_budget_s=given.batch_budget_ms / 1000,
        identify_budget_s=given.identify_budget_ms / 1000,
        in_progress_ttl_s=given.in_progress_ttl_s,
        answer_ttl_s=given.answer_ttl_s,
        count=telemetry.METRICS.count,
    ),
)
"""The adapter of each scheme of ``store.url``. Another online store is a module that keeps the
port Store (``tests/contract/test_store_contract.py``), and an entry here."""


def store(settings: Settings) -> Store:
    """The online store, chosen by its URL. Connects to nothing. Raises Misconfigured."""
    scheme, found, _ = settings.store.url.partition("://")
    if not found or scheme not in STORES:
        raise Misconfigured(
            "no online store is known by the scheme of this URL",  # which may hold a password
            where="store.url",
            fix=f"one of {', '.join(STORES)}, then ://",
        )
    return STORES[scheme](settings.store)


def store_at(url: str) -> Store:
    """The same by its URL alone, with the default budgets: for tools, tests and benchmarks."""
    return store(Settings(store=settings_of.Store(url=url)))


@dataclass(frozen=True, slots=True)
class FeaturizerParts:
    """What the featurizer's handler drives. The loop closes the consumer."""

    consumer: Consumer
    featurizer: Featurizer
    states: StateStore
    watermark: WatermarkStore
    reader: TopicReader

    def close(self) -> None:
        """Leave the store and the reader of earlier records."""
        self.reader.close()
        self.states.close()
        self.watermark.close()


def featurizer(settings: Settings) -> FeaturizerParts:
    """Consumer of three topics, states store and observations."""
    names = topics(settings)
    client_id = f"featurizer-{settings.service.name()}"
    extra = settings.kafka.extra()
    if why := store_trouble(settings):
        raise Unavailable(f"no TLS with the online store: {why}", where="store.url")
    online = store(settings)
    states = online.states()
    producer = EventProducer(
        settings.kafka.bootstrap,
        client_id=client_id,
        # A batch makes one record a partition, and waits for them.
        linger_ms=0,
        # If one were given up and the next arrived, states would take the first for seen.
        delivery_max_ms=0,
        extra=extra,
        count=telemetry.METRICS.count,
    )
    stems = {
        names.decisions: "decisions",
        names.observations: "observations",
        names.labels: "labels",
    }
    reader = TopicReader(settings.kafka.bootstrap, extra=extra)
    return FeaturizerParts(
        GroupConsumer(
            settings.kafka.bootstrap,
            group=group("featurizer", settings),
            topics=list(stems),
            client_id=client_id,
            passes_over=False,
            wait_for_commits=False,  # states skip what they have seen, the store knows how far
            session_ms=settings.kafka.session_s * 1000,
            extra=extra,
            count=telemetry.METRICS.count,
        ),
        Featurizer(
            store=states,
            observations=ObservationProducer(producer, names.observations),
            topics=stems,
            stage=lambda name, seconds: telemetry.METRICS.observe(
                "sluice_featurizer_stage_duration_seconds", seconds, name
            ),
            answers_since=lambda: SystemClock().now_us() - settings.store.answer_ttl_s * SECOND_US,
            earlier=partial(reader.between, names.decisions),
        ),
        states,
        online.watermark(),
        reader,
    )


@dataclass(frozen=True, slots=True)
class ArchiverParts:
    """What the archiver's handler drives. The loop closes the consumer."""

    consumer: Consumer
    archiver: Archiver


def archiver(settings: Settings) -> ArchiverParts:
    """Consumer of decisions, labels and shadows' scores, and the archive's files. Raises
    Unavailable while the archive's storage is away, Misconfigured."""
    from sluice.adapters.parquet.archive import ParquetFiles  # noqa: PLC0415 - an extra

    names = topics(settings)
    folders = {
        names.decisions: "decisions",
        names.labels: "labels",
        names.shadow_scores: "shadow_scores",
    }
    files = ParquetFiles(archive_root(settings), folders)
    consumer = GroupConsumer(
        settings.kafka.bootstrap,
        group=group("archiver", settings),
        topics=list(folders),
        client_id=f"archiver-{settings.service.name()}",
        passes_over=False,
        session_ms=settings.kafka.session_s * 1000,
        extra=settings.kafka.extra(),
        count=telemetry.METRICS.count,
    )
    return ArchiverParts(
        consumer, Archiver(files, roll_s=settings.archiver.roll_s, confirm=consumer.confirm)
    )


@dataclass(frozen=True, slots=True)
class LabellerParts:
    """What takes reports. consumer: of the topic of reports, None where none is read. The loop
    closes it."""

    labeller: Labeller
    topic: KafkaLabels
    consumer: Consumer | None


def labeller(settings: Settings) -> LabellerParts:
    """The labeller over ``labels.v1``, and its intake from Kafka. Raises Unavailable,
    Misconfigured."""
    names = topics(settings)
    extra = settings.kafka.extra()
    topic = KafkaLabels(settings.kafka.bootstrap, names, extra=extra, count=telemetry.METRICS.count)
    consumer = None
    if settings.labeller.topic:
        consumer = GroupConsumer(
            settings.kafka.bootstrap,
            group=group("labeller", settings),
            topics=[settings.labeller.topic],
            client_id=f"labeller-{settings.service.name()}",
            passes_over=False,
            session_ms=settings.kafka.session_s * 1000,
            extra=extra,
            count=telemetry.METRICS.count,
        )
    return LabellerParts(
        Labeller(topic, _authorizations(settings), SystemClock(), telemetry.METRICS.count),
        topic,
        consumer,
    )


def show_maturity(labeller: Labeller) -> None:
    """Show what share of the frauds is known after how many days."""
    for row in labeller.maturity():
        for days, share in row.known:
            if days in SHOWN_DAYS:
                telemetry.METRICS.set(
                    "sluice_labeller_known_ratio", share, row.channel, row.source, str(days)
                )


def _authorizations(settings: Settings) -> Authorizations:
    """What a report may leave out is looked up in the archive, if it may be read. Raises
    Misconfigured."""
    if not settings.labeller.look_up:
        return NoAuthorizations()
    from sluice.adapters.parquet.authorizations import (  # noqa: PLC0415 - an extra
        ArchivedAuthorizations,
    )

    root = archive_root(settings)
    if isinstance(root, Path) and not root.is_dir():
        raise Misconfigured(
            "labeller.look_up is on and there is no archive", where=f"archiver.root, {root}"
        )
    return ArchivedAuthorizations(root)


def consistency_check(settings: Settings) -> ConsistencyCheck:
    """The consistency check over the archive, with the policies and releases that lie where
    deciders look for them."""
    from sluice.adapters.parquet.samples import ArchiveSampleSource  # noqa: PLC0415 - an extra

    decider = settings.decider
    library = FolderLibrary(
        [Path(decider.policy_dir)],
        [release_folder(settings)],
        Path(decider.trust_dir),
        partial(look_for_releases, settings),
    )
    library.look()
    return ConsistencyCheck(
        ArchiveSampleSource(archive_root(settings)),
        SystemClock(),
        sample_ppm=settings.consistency.sample_ppm,
        settle_s=settings.consistency.settle_s,
        lookback_s=settings.consistency.lookback_s,
        library=library,
    )


def report_store(why: str) -> None:
    """Show whether the store's states are used; why not, "" if they are."""
    telemetry.METRICS.set("sluice_store_ready", 0 if why else 1)
    if why:
        telemetry.event("store_not_used", level=logging.ERROR, reason=why, fix=STORE_RUNBOOK)
    else:
        telemetry.event("store_used")


def show_figures(info: StoreInfo) -> None:
    """The store's own figures as gauges."""
    metrics = telemetry.METRICS
    metrics.set("sluice_store_used_memory_bytes", info.used_memory_bytes)
    metrics.set("sluice_store_max_memory_bytes", info.max_memory_bytes)
    metrics.set("sluice_store_evicted_keys", info.evicted_keys)


class EvictionPolicy:
    """Shows the store's eviction policy, and says so when it is another one."""

    def __init__(self) -> None:
        self._last = NOEVICTION

    def show(self, policy: str, why: str) -> None:
        """policy: UNKNOWN where the store does not tell; then why."""
        telemetry.METRICS.info("sluice_store_eviction_policy_info", policy)
        if policy != self._last:
            self._last = policy
            telemetry.event(
                "eviction_policy",
                level=logging.INFO if policy == NOEVICTION else logging.WARNING,
                policy=policy,
                reason=why,
                fix="docs/reference/online-store.md, section When it is down",
            )


def store_watch(settings: Settings, online: OnlineConnection) -> StoreWatch:
    """A decider's look at whether its store may have forgotten something."""
    asked = store(settings)
    return StoreWatch(
        asked.states(),
        asked.watermark(),
        show=show_figures,
        policy=EvictionPolicy().show,
        distrust=online.distrust,
    )


def _deciding_policies(settings: Settings) -> PolicyFiles:
    """The policy pack where it decides: it must not let through without a key. Raises
    Misconfigured if it is wrong."""
    return PolicyFiles(
        Path(settings.decider.policy_dir),
        catalogue.FEATURES,
        check=partial(refuse_undrawn, secret=settings.decider.let_through_key),
    )


class _Report:
    """What happens to the active configuration, in log and metrics."""

    def activated(self, what: What, name: str, by: Checked | None) -> None:
        said = {} if by is None else _said(by)
        telemetry.event("activated", what=what, id=name, **said)
        telemetry.METRICS.info(f"sluice_decider_{what}_info", name)
        epoch_us = 0 if by is None else by.activation.epoch
        telemetry.METRICS.set("sluice_decider_epoch_seconds", epoch_us / SECOND_US, what)

    def refused(self, what: str, error: SluiceError) -> None:
        telemetry.event(
            "refused", level=logging.ERROR, what=what, code=error.code, reason=str(error)[:2000]
        )
        telemetry.METRICS.count("sluice_decider_refused_total", what, error.code)

    def refusing(self, what: str, now: bool) -> None:
        telemetry.METRICS.set("sluice_decider_refusing", now, what)

    def untrusted(self, what: What, keys: Sequence[str]) -> None:
        telemetry.METRICS.set("sluice_decider_untrusted", bool(keys), what)

    def withdrawn(self, what: What, name: str, keys: Sequence[str]) -> None:
        telemetry.event("untrusted", level=logging.ERROR, what=what, id=name, keys=[*keys])

    def not_rehearsed(self, what: What, name: str, rows: int) -> None:
        telemetry.event("not_rehearsed", what=what, id=name, decisions=rows)

    def tripped(self, trip: Trip, remedy: Remedy) -> None:
        telemetry.event(
            "breaker_tripped", level=logging.ERROR, remedy=remedy, **trip._asdict(),
            fix="docs/runbooks/bad-release.md",
        )  # fmt: skip
        telemetry.METRICS.count("sluice_decider_breaker_trips_total", trip.kind, remedy)

    def open_trips(self, trips: Sequence[Trip]) -> None:
        for kind in ("rule", LISTS, MODEL):
            number = sum(trip.kind == kind for trip in trips)
            telemetry.METRICS.set("sluice_decider_breaker_open", number, kind)

    def challenger(self, event: Rollout) -> None:
        returned = event.step == "returned"
        telemetry.event(
            "rollout",
            level=logging.ERROR if returned else logging.INFO,
            **{key: value for key, value in structs.asdict(event).items() if value is not None},
        )
        if returned:
            telemetry.METRICS.count("sluice_decider_returned_total", event.role, event.reason or "")

    def beside(self, role: Beside, share_ppm: int) -> None:
        telemetry.METRICS.set("sluice_decider_beside_share", share_ppm / 1_000_000, role)

    def answered(self, rows: int) -> None:
        telemetry.METRICS.count("sluice_decider_canary_rows_total", by=rows)

    def shadowed(self, rows: int, seconds: float, stricter: int, laxer: int, failed: bool) -> None:
        count = telemetry.METRICS.count
        count("sluice_decider_shadow_rows_total", by=rows)
        count("sluice_decider_shadow_cpu_seconds_total", by=seconds)
        count("sluice_decider_shadow_flips_total", "stricter", by=stricter)
        count("sluice_decider_shadow_flips_total", "laxer", by=laxer)
        count("sluice_decider_shadow_failures_total", by=failed)

    def left_out(self, role: Beside, rows: int) -> None:
        telemetry.METRICS.count("sluice_decider_beside_left_out_total", role, by=rows)


class _PopulationReport:
    """How what a release meets compares with what it was made for, in log and metrics."""

    def begun(self, release: str, reference_rows: int) -> None:
        telemetry.METRICS.set("sluice_decider_reference_rows", reference_rows)
        telemetry.METRICS.set("sluice_decider_out_of_domain", 0)
        if not reference_rows:
            telemetry.event(
                "no_reference", level=logging.WARNING, id=release, fix="sluice release reference"
            )

    def compared(self, found: Comparison, worst: list[str], out: bool) -> None:
        metrics = telemetry.METRICS
        metrics.set("sluice_decider_out_of_domain", out)
        metrics.set("sluice_decider_population_rows", found.rows)
        metrics.set("sluice_decider_score_psi_ratio", found.score)
        metrics.set("sluice_decider_inputs_shifted_ratio", found.shifted)
        metrics.set("sluice_decider_alerts_to_promised_ratio", found.alerts)
        metrics.info("sluice_decider_most_shifted_input_info", worst[0])

    def changed(self, release: str, found: Comparison, worst: list[str], out: bool) -> None:
        telemetry.event(
            "out_of_domain" if out else "in_domain_again",
            level=logging.ERROR if out else logging.INFO,
            id=release,
            rows=found.rows,
            score_psi=round(found.score, 3),
            inputs_shifted=round(found.shifted, 3),
            alerts_to_promised=round(found.alerts, 2),
            most_shifted=worst,
            fix="docs/runbooks/out-of-domain.md",
        )


def population_check(active: ActiveConfiguration) -> PopulationCheck:
    """A decider's look at whether its release meets what it was made for."""
    return PopulationCheck(active, SystemClock(), _PopulationReport())


def _said(by: Checked) -> dict[str, Any]:
    act = by.activation
    return {
        "act": act.act,
        "epoch": act.epoch,
        "who": act.who,
        "why": act.why,
        "approved_by": sorted(by.signers),
    }


@dataclass(frozen=True, slots=True)
class Active:
    """What decides, and what scores beside it. look_for_releases: called before either is."""

    configuration: ActiveConfiguration
    challengers: Challengers
    look_for_releases: Callable[[], None]

    def follow(self) -> None:
        """Look at all that may replace them. Raises what could not be looked at now; the rest
        was."""
        with ExitStack() as each:
            each.callback(
                lambda: self.challengers.poll(
                    self.configuration.activation(), self.configuration.changes()
                )
            )
            each.callback(self.configuration.poll)
            self.look_for_releases()


def active(settings: Settings, entrypoint: Entrypoint | None = None) -> Active:
    """Release and policy, and the releases beside it. Arguments and errors are those of
    :func:`active_configuration`."""
    decider = settings.decider
    trusted = TrustFolder(Path(decider.trust_dir), read_trust, SystemClock())
    configuration = active_configuration(settings, entrypoint, trusted)
    names, kafka = topics(settings), settings.kafka

    def follow(name: str) -> ReleaseDirectory:
        return ReleaseDirectory(
            release_folder(settings) / name,
            trusted,
            catalogue.FEATURES,
            configuration.policies.current().fx.reference,
            entrypoint=entrypoint,
            first_apart=True,
        )

    def producer() -> EventProducer:
        return EventProducer(
            kafka.bootstrap,
            client_id=f"rollout-{settings.service.name()}",
            extra=kafka.extra(),
            count=telemetry.METRICS.count,
        )

    challengers = Challengers(
        follow,
        trusted=lambda: frozenset(trusted.keys),
        log=RolloutTopic(
            names.rollouts, lambda: TopicReader(kafka.bootstrap, extra=kafka.extra()), producer
        ),
        scores=ShadowTopic(names.shadow_scores, producer),
        report=_Report(),
        clock=SystemClock(),
        emitter=emitter(settings),
    )
    return Active(configuration, challengers, partial(look_for_releases, settings))


def active_configuration(
    settings: Settings,
    entrypoint: Entrypoint | None = None,
    trusted: TrustFolder | None = None,
) -> ActiveConfiguration:
    """Release and policy, followed on disk. entrypoint: whose variant of the release scores.

    Raises Misconfigured if the policy is wrong, and Corrupt if it may not decide; without a release
    that holds, decisions go without a model until one comes.
    """
    decider = settings.decider
    clock = SystemClock()
    pack = _deciding_policies(settings)
    trusted = trusted or TrustFolder(Path(decider.trust_dir), read_trust, clock)
    release_dir, policy_dir = release_folder(settings), Path(decider.policy_dir)
    limits = Limits(
        release_approvals=decider.release_approvals,
        policy_approvals=decider.policy_approvals,
        shift_ppm=decider.dry_run_shift_ppm if decider.dry_run_rows else None,
        drop_untrusted=decider.drop_untrusted,
    )
    for what in (RELEASE, POLICY):
        needed = limits.approvals(what)
        telemetry.METRICS.set("sluice_decider_approvals_required", needed, what)
    telemetry.event(
        "approvals_required", release=limits.release_approvals, policy=limits.policy_approvals
    )
    activation = ActivationFile(release_dir)
    return ActiveConfiguration(
        ReleaseDirectory(
            release_dir,
            trusted,
            catalogue.FEATURES,
            pack.current().fx.reference,
            telemetry.METRICS.count,
            entrypoint=entrypoint,
            named=lambda: champion_of(activation.read(), trusted),
        ),
        pack,
        trusted=trusted,
        release_activations=activation,
        policy_activations=ActivationFile(policy_dir),
        epochs=EpochFile(Path(decider.epoch_file) if decider.epoch_file else None),
        recent=Recent(decider.dry_run_rows),
        breaker=DeclineBreaker(decider.breaker_decline_ppm, decider.breaker_rows),
        limits=limits,
        report=_Report(),
        clock=clock,
    )


def online_store(settings: Settings, *, batches: bool) -> OnlineConnection:
    """The decider's side of the store. batches: with the stream processor's budget."""
    return store(settings).online(batches=batches, on_trust=report_store)


def once(settings: Settings, store: OnlineStore) -> Once:
    """What this replica knows of ids, and the store behind it."""
    return Once(
        store,
        SystemClock(),
        entries_max=settings.decider.answers_max,
        age_max_s=settings.decider.answers_age_s,
    )


def decided_tail(settings: Settings, records_max: int) -> Iterator[Message]:
    """The newest records of ``decisions.v1`` whose answers a replica would remember."""
    since_us = SystemClock().now_us() - settings.decider.answers_age_s * SECOND_US
    reader = TopicReader(settings.kafka.bootstrap, extra=settings.kafka.extra())
    try:
        yield from reader.tail(topics(settings).decisions, records_max, since_us // 1000)
    finally:
        reader.close()


def decider(
    settings: Settings,
    entrypoint: Entrypoint,
    ids: Ids,
    log: DecisionLog,
    active: Active,
    turned_away: Callable[[], Unavailable | None] = lambda: None,
) -> DecisionPipeline:
    """The decision pipeline behind one entrypoint. turned_away: why it is not ready, if the store
    will not have us. Raises Misconfigured for a wrong grammar."""
    return DecisionPipeline(
        entrypoint=entrypoint,
        emitter=emitter(settings),
        ids=ids,
        scorer=active.configuration.releases,
        policy=active.configuration.policies,
        log=log,
        clock=SystemClock(),
        bounds=EventTimeBounds(
            max_age_us=settings.decider.max_event_age_s * SECOND_US,
            max_ahead_us=settings.decider.max_event_ahead_s * SECOND_US,
        ),
        stage=lambda name, seconds: telemetry.METRICS.observe(
            "sluice_decider_stage_duration_seconds", seconds, name
        ),
        check=checks(settings.decider.grammars, settings.service.region),
        turned_away=turned_away,
        watch=active.configuration,
        challengers=active.challengers,
        draw=draw_of(settings.decider.let_through_key, SystemClock(), telemetry.METRICS.count),
        build=Build(
            runtime=f"onnxruntime-{version('onnxruntime')}",
            image=settings.service.image_digest or None,
            config=digest_of(settings),
        ),
    )


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the sync API takes for a credential; None for a kind that it does not take."""

    tokens: Tokens | None
    clients: Clients | None


Api = Literal["decider", "labeller"]
"""Whose HTTP: the section with its address, certificate and clients' CA."""


def credentials(settings: Settings, api: Api = "decider") -> Credentials | None:
    """Keys and clients, read once; None where everybody may ask.

    Raises Misconfigured if a setting is missing or a file is wrong, Unavailable if the issuer's
    keys cannot be fetched.
    """
    given = settings.access
    client_ca_file = _http(settings, api).client_ca_file
    if given.mode == "none":
        return None
    if not given.issuer and not client_ca_file:
        raise Misconfigured(
            "a credential is required and none is taken",
            where="access.mode",
            fix=f"access.issuer for bearer tokens, {api}.client_ca_file for certificates",
        )
    if client_ca_file and not given.issuer and not given.clients_file:
        raise Misconfigured(
            "nobody is known by a certificate",
            where="access.clients_file",
            fix="a file with certificates, tenants and scopes",
        )
    clients = None
    if given.clients_file:
        if not client_ca_file:
            raise Misconfigured(
                "certificates are listed, and none is asked for",
                where=f"{api}.client_ca_file",
                fix="the CA bundle of the clients",
            )
        from sluice.adapters.identity.clients import ClientsFile  # noqa: PLC0415 - only here

        clients = ClientsFile(Path(given.clients_file))
    return Credentials(_tokens(given) if given.issuer else None, clients)


def _http(
    settings: Settings, api: Api
) -> settings_of.DeciderSettings | settings_of.LabellerSettings:
    return settings.decider if api == "decider" else settings.labeller


def _tokens(given: settings_of.AccessSettings) -> Tokens:
    from sluice.adapters.identity.keys import KeySet  # noqa: PLC0415 - an extra
    from sluice.adapters.identity.tokens import JwtTokens  # noqa: PLC0415

    for key in ("audience", "keys"):
        if not getattr(given, key):
            raise Misconfigured("tokens cannot be verified without it", where=f"access.{key}")
    keys = KeySet(
        given.keys,
        [name.strip() for name in given.algorithms.split(",") if name.strip()],
        ca_file=given.keys_ca_file,
    )
    keys.read()
    return JwtTokens(
        keys,
        issuer=given.issuer,
        audience=given.audience,
        leeway_s=given.leeway_s,
        tenant_claim=given.tenant_claim,
        scope_claim=given.scope_claim,
        refresh_s=given.keys_refresh_s,
        read=_keys_read,
    )


def _keys_read(error: SluiceError | None) -> None:
    telemetry.METRICS.count("sluice_decider_keys_reads_total", "failed" if error else "read")
    if error:
        telemetry.event("keys_not_read", level=logging.ERROR, code=error.code, reason=str(error))


def server_tls(settings: Settings, api: Api = "decider") -> tls.ServerTls | None:
    """Certificate of an API, and the CA of its clients; None for plain HTTP. Raises
    Misconfigured."""
    given = _http(settings, api)
    if not (given.cert_file or given.key_file or given.client_ca_file):
        return None
    return tls.ServerTls(tls.Files(api, given.client_ca_file, given.cert_file, given.key_file))


def sampler(settings: Settings) -> telemetry.Sampler:
    """Which lines of authorizations an entrypoint writes."""
    service = settings.service
    return telemetry.Sampler(service.log_sample_ppm, service.log_lines_per_s)


def decision_producer(settings: Settings) -> DecisionProducer:
    """``decisions.v1`` for the sync API."""
    return DecisionProducer(
        settings.kafka.bootstrap,
        topic=topics(settings).decisions,
        client_id=f"decider-{settings.service.name()}",
        append_max_ms=settings.decider.record_budget_ms,
        extra=settings.kafka.extra(),
        count=telemetry.METRICS.count,
    )


def transactional_stream(settings: Settings) -> Transactions:
    """``authorizations.v1`` in, transactions out, for the stream processor."""
    name = f"decider-{settings.service.name()}"
    return TransactionalStream(
        settings.kafka.bootstrap,
        group=group("decider", settings),
        topics=[topics(settings).authorizations],
        transactional_id=f"{settings.kafka.topic_prefix}{name}",
        client_id=name,
        session_ms=settings.kafka.session_s * 1000,
        extra=settings.kafka.extra(),
        count=telemetry.METRICS.count,
    )
