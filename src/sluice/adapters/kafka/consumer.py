"""A member of a consumer group: batches in, commits after effect, clean hand-over."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from sluice.adapters.kafka.config import (
    FETCH_AGAIN_MS,
    FETCH_WAIT_MS,
    HEARTBEAT_MS,
    LEADERLESS,
    POLL_INTERVAL_MAX_MS,
    PREFETCH_MAX_KBYTES,
    REQUEST_MAX_S,
    SESSION_MAX_MS,
    Extra,
    client,
    code_of,
    error_counter,
    heals,
    traceparent_of,
    translate,
)
from sluice.adapters.kafka.topic_ids import Ids, TopicIds
from sluice.application.ports import (
    NO_OFFSETS,
    RECORDS_GONE,
    TOPIC_REMADE,
    Count,
    Message,
    Offsets,
    OnAssign,
    OnRevoke,
    Partition,
    uncounted,
)
from sluice.errors import Corrupt, Misconfigured, Unavailable

GONE_MAX_S = 15.0
"""A topic that does not exist for so long was deleted; brokers learn of one within a second."""
RUNBOOK = "docs/runbooks/topic-made-again.md"
_OUT_OF_RANGE = (KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION)


def to_message(message: Any) -> Message:
    """confluent_kafka's message, without an error, as ours."""
    return Message(
        message.value() or b"",
        message.key(),
        message.topic(),
        message.partition(),
        message.offset(),
        traceparent_of(_headers(message)),
        message.timestamp()[1],
    )


def _headers(message: Any) -> list[tuple[str, bytes | None]] | None:
    """None for headers that cannot be read, of a name that is no UTF-8: a trace is no reason to
    lose the batch that the message came in."""
    try:
        found: list[tuple[str, bytes | None]] | None = message.headers()
    except Exception:
        return None
    return found


REACH_MAX_S = 0.2
"""How long the owner is held up by the question whether a broker is back."""


class GroupConsumer:
    """Reads committed records in a group with cooperative-sticky assignment.

    Nothing is committed by itself: the owner commits after effect. A new group starts at the
    oldest record. One thread only, ``lag`` included: asked from a second one, librdkafka and the
    interpreter lock can wait for each other. Callbacks run inside ``poll_batch`` and ``close``.
    wait_for_commits: False for owners to whom a batch may come again, see ``commit_later``.
    passes_over: whether reading goes on where the topic begins, if records expired before they were
    read; otherwise that is Corrupt. count: of what goes wrong.

    A commit carries its topic's id: an offset of another topic of the same name counts for nothing.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        group: str,
        topics: Sequence[str],
        client_id: str,
        wait_for_commits: bool = True,
        passes_over: bool = True,
        session_ms: int = SESSION_MAX_MS,
        extra: Extra | None = None,
        count: Count = uncounted,
    ) -> None:
        self.group = group
        self.count = count
        self._count_error = error_counter(count)
        self.member = ""
        """Our id in the group when partitions last came to us."""
        self._on_assign: OnAssign = lambda _: None
        self._on_revoke: OnRevoke = lambda _, __: None
        self._wait_for_commits = wait_for_commits
        self._all_down = False
        """librdkafka has lost every broker, and does not say when it has one again."""
        self._topics = tuple(topics)
        self._left: set[Partition] = set()
        self._uncommitted: KafkaError | None = None
        self._closing = False
        self._drained: dict[Partition, int] = {}
        self._first: dict[Partition, int] = {}
        """Where reading began, for partitions that have no committed offset yet."""
        self._passes_over = passes_over
        self._topic_ids = TopicIds(bootstrap, topics, client_id=client_id, extra=extra)
        self._ids: dict[str, str] = {}
        """Of the topics that we began to read."""
        self._gone_since: dict[str, float] = {}
        self._consumer = Consumer(
            client(
                bootstrap,
                client_id,
                extra,
                group_id=group,
                isolation_level="read_committed",
                partition_assignment_strategy="cooperative-sticky",
                auto_offset_reset="error",
                enable_auto_commit=False,
                enable_auto_offset_store=False,
                enable_partition_eof=True,
                on_commit=self._committed_later,
                error_cb=self._erred,
                session_timeout_ms=session_ms,
                heartbeat_interval_ms=HEARTBEAT_MS,
                max_poll_interval_ms=POLL_INTERVAL_MAX_MS,
                fetch_wait_max_ms=FETCH_WAIT_MS,
                fetch_error_backoff_ms=100,
                fetch_queue_backoff_ms=FETCH_AGAIN_MS,
                queued_max_messages_kbytes=PREFETCH_MAX_KBYTES,
            )
        )
        self._join()

    def _join(self) -> None:
        self._consumer.subscribe(
            list(self._topics),
            on_assign=self._assigned,
            on_revoke=self._revoked,
            on_lost=self._lost,
        )

    @property
    def raw(self) -> Any:
        """The confluent_kafka.Consumer, for the transactional producer's group metadata."""
        return self._consumer

    def listen(self, on_assign: OnAssign, on_revoke: OnRevoke) -> None:
        """See the port."""
        self._on_assign, self._on_revoke = on_assign, on_revoke

    def poll_batch(self, limit: int, wait_s: float) -> list[Message]:
        """Up to limit records; waits at most wait_s for the first, and never for the others.

        Raises Unavailable or Misconfigured for an error that does not heal by itself, Corrupt with
        code TOPIC_REMADE or RECORDS_GONE.
        """
        found = self._topic_ids.look()
        if found is not None:
            self._compare(found)
        try:
            first = self._consumer.poll(wait_s)
            if first is None:
                return []
            # What left before it came may have come back in the same poll, and it with that.
            self._left.clear()
            rest = self._consumer.consume(limit - 1, 0) if limit > 1 else []
        except KafkaException as exc:
            raise translate(exc, "read", self.group) from exc
        batch: list[Message] = []
        for raw in (first, *rest):
            error = raw.error()
            if error is not None:
                self._take_note(error, raw)
                continue
            message = to_message(raw)
            self._first.setdefault((message.topic, message.partition), message.offset)
            batch.append(message)
        if self._left and batch and (batch[0].topic, batch[0].partition) in self._left:
            # Its partition left while the others were taken; librdkafka drops only those itself.
            # It comes again, here or elsewhere.
            del batch[0]
        return batch

    def commit(self, offsets: Offsets) -> None:
        """Commit the next offset to read of each partition, and wait for the answer.

        Raises Unavailable; its code is "rebalanced" if the partitions are no longer ours.
        """
        if not offsets:
            return
        if not self._wait_for_commits:
            self.commit_later(offsets)
            return
        try:
            done = self._consumer.commit(
                offsets=self.places(offsets),
                asynchronous=False,
            )
        except KafkaException as exc:
            raise translate(exc, "commit offsets", self.group) from exc
        for place in done:
            if place.error is not None:
                where = f"{place.topic}/{place.partition}@{place.offset}"
                raise translate(place.error, "commit offsets", where)

    def commit_later(self, offsets: Offsets) -> None:
        """The same without waiting, for owners to whom a batch may come again: what is committed
        late or not at all is read twice.

        Raises Unavailable or Misconfigured if an earlier one failed for another reason than that
        the partitions left. A broker that is away fails none: the next one commits for it too.
        """
        error, self._uncommitted = self._uncommitted, None
        if error is not None:
            raise translate(error, "commit offsets", self.group)
        try:
            self._consumer.commit(
                offsets=self.places(offsets),
                asynchronous=True,
            )
        except KafkaException as exc:
            raise translate(exc, "commit offsets", self.group) from exc

    def places(self, offsets: Offsets) -> list[TopicPartition]:
        """Offsets as they are committed: with the topic's id."""
        return [TopicPartition(t, p, o, self._ids.get(t, "")) for (t, p), o in offsets.items()]

    def committed_elsewhere(self, offsets: Offsets) -> None:
        """Take note of offsets that a transaction committed. The embedded broker forgets them."""
        self._first.update(offsets)

    def committed(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The committed next offset of each; partitions without one are left out, and those whose
        offset is of another topic of this name.

        Waits for open transactions on these offsets to end. Raises Unavailable.
        """
        return {
            (place.topic, place.partition): place.offset
            for place in self._committed(partitions)
            if place.offset >= 0 and not self._foreign(place)
        }

    def _committed(self, partitions: Iterable[Partition]) -> list[TopicPartition]:
        asked = [TopicPartition(t, p) for t, p in partitions]
        try:
            return self._consumer.committed(asked, timeout=REQUEST_MAX_S) if asked else []
        except KafkaException as exc:
            raise translate(exc, "ask for committed offsets", self.group) from exc

    def _foreign(self, place: TopicPartition) -> bool:
        """Whether a committed offset is of another topic than the one that we read."""
        known = self._ids.get(place.topic)
        return bool(known and place.metadata and place.metadata != known)

    def seek(self, offsets: Offsets) -> None:
        """Read on from these offsets; only for partitions assigned and already being read."""
        for (topic, partition), offset in offsets.items():
            self._drained.pop((topic, partition), None)
            try:
                self._consumer.seek(TopicPartition(topic, partition, offset))
            except KafkaException as exc:
                raise translate(exc, "seek", f"{topic}/{partition}@{offset}") from exc

    def rewind(self, starts: Offsets = NO_OFFSETS) -> None:
        """Go back to the committed offsets, or to those of starts: everything since comes again.
        Raises Unavailable."""
        mine = self.assignment()
        known = {**self._first, **self._starts(mine), **starts}
        self.seek({place: known[place] for place in mine if place in known})

    def _starts(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """What is committed, and where the topic begins if that is an offset of another one."""
        starts = {}
        for place in self._committed(partitions):
            if self._foreign(place):
                self.count("sluice_consumer_topics_remade_total", place.topic)
                starts[(place.topic, place.partition)] = OFFSET_BEGINNING
            elif place.offset >= 0:
                starts[(place.topic, place.partition)] = place.offset
        return starts

    def confirm(self) -> dict[str, str]:
        """See the port."""
        self._compare(self._topic_ids.ask())
        return {**self._ids}

    def _compare(self, found: Ids) -> None:
        """Take note of ids. Raises Corrupt where one is another, and Misconfigured where a topic
        is gone."""
        now = time.monotonic()
        for topic, topic_id in found.items():
            known = self._ids.get(topic, "")
            if topic_id:
                self._gone_since.pop(topic, None)
            elif known and now - self._gone_since.setdefault(topic, now) > GONE_MAX_S:
                raise Misconfigured(
                    "the topic was deleted", where=topic, fix="sluice topics apply", code="deleted"
                )
            if topic_id and not known:
                self._ids[topic] = topic_id
            elif topic_id not in ("", known):
                self.count("sluice_consumer_topics_remade_total", topic)
                raise Corrupt(
                    "the topic was deleted and made again: its offsets begin anew",
                    where=topic,
                    fix=RUNBOOK,
                    code=TOPIC_REMADE,
                )

    def oldest(self, partition: Partition) -> int:
        """The first offset that the topic still holds. Raises Unavailable."""
        return self._bounds(partition)[0]

    def _bounds(self, partition: Partition) -> tuple[int, int]:
        """The first offset that the topic still holds, and the one behind its last."""
        topic, number = partition
        place = TopicPartition(topic, number)
        try:
            low, high = self._consumer.get_watermark_offsets(place, timeout=REQUEST_MAX_S)
        except KafkaException as exc:
            where = f"{topic}/{number}"
            if exc.args[0].code() in LEADERLESS:
                raise Unavailable("the partition has no leader", where=where) from exc
            raise translate(exc, "ask where it begins and ends", where) from exc
        return int(low), int(high)

    def assignment(self) -> list[Partition]:
        """The partitions that are ours now."""
        return [(place.topic, place.partition) for place in self._consumer.assignment()]

    def partitions(self) -> list[Partition]:
        """All partitions of our topics, whoever in the group has them. Raises Unavailable."""
        try:
            known = self._consumer.list_topics(timeout=REQUEST_MAX_S).topics
        except KafkaException as exc:
            raise translate(exc, "list topics", self.group) from exc
        return [(t, p) for t in self._topics if t in known for p in known[t].partitions]

    def lag(self) -> dict[Partition, int]:
        """Records behind the end, per partition of ours, from the last fetch: no request is made.

        Transaction markers in between count as records; at the end of a partition it is 0. A
        partition not fetched yet is left out.
        """
        lags: dict[Partition, int] = {}
        for place in self._consumer.position(self._consumer.assignment()):
            partition = (place.topic, place.partition)
            _, high = self._consumer.get_watermark_offsets(place, cached=True)
            if high < 0:
                continue
            behind = 0 if self._drained.get(partition) == high else high - max(0, place.offset)
            lags[partition] = max(0, behind)
        return lags

    def uncommitted(self) -> dict[Partition, int]:
        """See the port. A request, and one for each partition. Transaction markers count too."""
        mine = self.assignment()
        done = self.committed(mine)
        counts = {}
        for partition in mine:
            low, high = self._bounds(partition)
            counts[partition] = max(0, high - max(low, done.get(partition, 0)))
        return counts

    def reachable(self) -> bool:
        """See the port. Waits at most REACH_MAX_S, and only while all brokers were lost."""
        if self._all_down:
            try:
                self._consumer.list_topics(self._topics[0], timeout=REACH_MAX_S)
            except KafkaException:
                return False
            self._all_down = False
        return True

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Stop fetching these until ``resume``; polling goes on and keeps the membership."""
        self._consumer.pause([TopicPartition(t, p) for t, p in partitions])

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Fetch these again."""
        self._consumer.resume([TopicPartition(t, p) for t, p in partitions])

    def close(self) -> None:
        """Leave the group; on_revoke is called for what we hold."""
        self._closing = True
        self._consumer.close()

    def _erred(self, error: KafkaError) -> None:
        self._count_error(error)
        self._all_down = self._all_down or error.code() == KafkaError._ALL_BROKERS_DOWN

    def _committed_later(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        for found in (error, *(place.error for place in places)):
            if found is None:
                continue
            self.count("sluice_consumer_commits_failed_total", code_of(found))
            if not heals(found):
                self._uncommitted = found

    def _take_note(self, error: KafkaError, message: Any) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            place = TopicPartition(message.topic(), message.partition())
            _, high = self._consumer.get_watermark_offsets(place, cached=True)
            self._drained[(message.topic(), message.partition())] = high
            return
        if error.code() in _OUT_OF_RANGE:
            self._out_of_range((message.topic(), message.partition()))
            return
        if heals(error):
            self.count("sluice_kafka_errors_total", code_of(error))
            return  # librdkafka reconnects and rejoins; lag and readiness tell of it
        raise translate(error, "read", f"{message.topic()}/{message.partition()}")

    def _out_of_range(self, place: Partition) -> None:
        """Go on where the topic begins. Raises Corrupt if that passes over what must be read."""
        self.confirm()
        if self.committed([place]) or place in self._first:
            topic, number = place
            self.count("sluice_consumer_records_gone_total", topic)
            if not self._passes_over:
                raise Corrupt(
                    "the topic no longer holds what is to be read next",
                    where=f"{topic}/{number}",
                    fix=RUNBOOK,
                    code=RECORDS_GONE,
                )
        anew = [TopicPartition(*place, OFFSET_BEGINNING)]  # it is stopped, and takes no seek
        self._consumer.incremental_unassign(anew)
        self._consumer.incremental_assign(anew)

    def _assigned(self, consumer: Any, places: list[TopicPartition]) -> None:
        if self._closing:  # it had just asked to join; nothing is answered any more
            consumer.incremental_assign(places)
            return
        self.member = consumer.memberid()
        mine = [(place.topic, place.partition) for place in places]
        self.confirm()
        starts = dict.fromkeys(mine, OFFSET_BEGINNING) | self._starts(mine)
        try:
            given = self._on_assign(mine) or {}
            starts |= given
            # From there on nothing may be passed over, though none of it was read or committed yet.
            self._first.update({place: at for place, at in given.items() if at >= 0})
        finally:  # they are ours all the same
            for place in places:
                for metric in ("partitions_lost", "topics_remade", "records_gone"):
                    self.count(f"sluice_consumer_{metric}_total", place.topic, by=0)
                place.offset = starts[(place.topic, place.partition)]
            consumer.incremental_assign(places)

    def _revoked(self, _consumer: Any, places: list[TopicPartition]) -> None:
        self._leave(places, lost=False)

    def _lost(self, _consumer: Any, places: list[TopicPartition]) -> None:
        for place in places:
            self.count("sluice_consumer_partitions_lost_total", place.topic)
        self._leave(places, lost=True)

    def _leave(self, places: list[TopicPartition], *, lost: bool) -> None:
        partitions = [(place.topic, place.partition) for place in places]
        self._left.update(partitions)
        for partition in partitions:
            self._drained.pop(partition, None)
            self._first.pop(partition, None)
        self._on_revoke(partitions, lost)
