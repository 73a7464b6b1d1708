"""Every metric of every service, with all its labels.

A name that is not here cannot be used; ``sluice reference`` writes the table to
docs/reference/metrics.md. Labels are bounded words, never identifiers. A counter of what goes wrong
starts at 0 with its process, so that the first time is a rise.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]

SLO_SECONDS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03),
    *(0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5),
)
"""Dense from 1 to 100 ms, where the promises lie."""
AGE_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
LOG_AGE_SECONDS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, *AGE_SECONDS[2:])
"""Dense up to 50 ms, within which a record's entry is to be durable."""
STATE_AGE_SECONDS = (1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0)
AGE_SAMPLE = 8
BATCH_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
LABEL_SETS_MAX = 256
"""Label sets one metric may have; any further one is counted under "other". Guards the scraper."""


class Metric(NamedTuple):
    """One row of the table. buckets: upper bounds of a histogram, in the unit of its name. begins:
    label sets that a counter shows as 0 from the start, besides those without labels."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()
    begins: tuple[tuple[str, ...], ...] = ()


_EVERY = ("decider", "featurizer", "archiver", "consistency", "labeller", "auditor", "witness")
SHOWN_BY: dict[str, tuple[str, ...]] = {
    "task": ("decider", "featurizer", "consistency", "labeller", "auditor"),
    "start": ("decider", "featurizer", "archiver", "labeller", "auditor"),
    "build": _EVERY,
    "region": _EVERY,
    "decider": ("decider",),
    "store": ("decider", "featurizer"),
    "consumer": ("decider", "featurizer", "archiver", "labeller", "auditor"),
    "producer": ("decider", "featurizer", "labeller", "auditor"),
    "kafka": ("decider", "featurizer", "archiver", "labeller", "auditor"),
    "dead": ("decider", "labeller"),
    "featurizer": ("featurizer",),
    "archiver": ("archiver",),
    "labeller": ("labeller",),
    "auditor": ("auditor",),
    "witness": ("witness",),
    "consistency": ("consistency",),
}
"""Services that show the metrics of a component, the second word of their names."""


def _each(*words: str) -> tuple[tuple[str, ...], ...]:
    return tuple((word,) for word in words)


_ENTITIES = _each("card", "terminal", "merchant", "device")
CLOSED_BECAUSE = (
    *("full", "address_full", "idle", "slow_sender", "slow_reader", "invalid_http"),
    *("headers_too_large", "overloaded", "not_connected", "accept_failed", "failed"),
)
_STORE_CODES = _each(
    *("ERR", "OOM", "READONLY", "MISCONF", "LOADING", "BUSY", "WRONGTYPE", "EXECABORT"),
    *("NOAUTH", "WRONGPASS", "NOPERM", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN", "MOVED"),
    *("ASK", "TRYAGAIN", "CROSSSLOT", "UNANSWERED", "other"),
)
_KAFKA_CODES = _each(
    *("_SSL", "_AUTHENTICATION"),
    *("_TRANSPORT", "_ALL_BROKERS_DOWN", "_MAX_POLL_EXCEEDED", "_TIMED_OUT", "_MSG_TIMED_OUT"),
    *("_ASSIGNMENT_LOST", "ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID", "REBALANCE_IN_PROGRESS"),
    *("REQUEST_TIMED_OUT", "NOT_LEADER_FOR_PARTITION", "LEADER_NOT_AVAILABLE"),
    *("NOT_ENOUGH_REPLICAS", "NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE"),
    *("COORDINATOR_LOAD_IN_PROGRESS", "CONCURRENT_TRANSACTIONS", "MSG_SIZE_TOO_LARGE"),
    *("TOPIC_AUTHORIZATION_FAILED", "GROUP_AUTHORIZATION_FAILED"),
    *("TRANSACTIONAL_ID_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED"),
    *("SASL_AUTHENTICATION_FAILED", "other"),
)
_ABORT_CODES = _each(
    *("unavailable", "rebalanced", "store_lost", "busy", "unidentified", "internal", "rejected"),
    "too_large",
)
_REFUSAL_CODES = (
    *("corrupt", "misconfigured", "not_regular", "too_large", "too_deep", "too_slow"),
    *("out_of_memory", "crashed", "internal"),
    *("unapproved", "epoch", "key_withdrawn", "dry_run_shift"),
)
BACK_BECAUSE = (
    *("errors", "latency", "declines", "approvals", "agreement", "consistency"),
    "expected_loss",
)
_DEAD_LETTER_CODES = (
    *("duplicate", "conflict", "event_too_old", "event_in_future", "unknown_field"),
    *("missing_field", "wrong_type", "out_of_range", "bad_format", "bad_token", "unknown_value"),
    *("unknown_currency", "unknown_country", "invalid_json", "too_large", "card_number"),
    *("other_region", "internal"),
)
_ACCESS_REASONS = _each(
    *("none", "malformed", "expired", "not_yet_valid", "wrong_audience", "wrong_issuer"),
    *("wrong_algorithm", "bad_signature", "unknown_key", "key_not_read_yet", "keys_unavailable"),
    *("unknown_certificate", "not_bound", "other_tenant", "wrong_scope", "unknown_route"),
    *("rate", "in_flight"),
)


TABLE: tuple[Metric, ...] = (
    Metric("sluice_build_info", "gauge", ("service", "version"), "1 for the running version."),
    Metric(
        "sluice_region_info",
        "gauge",
        ("region",),
        "1 for the region that the service's cell is for (`service.region`); `any` where none is "
        "set.",
    ),
    Metric(
        "sluice_start_waiting",
        "gauge",
        ("part",),
        "1 while the service has not begun because a part is not there yet: broker, topics, store, "
        "release, keys (of the tokens' issuer), keystore, storage (of the archive). 0 once it "
        "came.",
    ),
    # what is due again and again beside a service's own work
    Metric(
        "sluice_task_completed_timestamp_seconds",
        "gauge",
        ("task",),
        "When the newest run of a task came to its end, Unix time; until then, when it began to be "
        "due. follow: release and policy. beside: shadow and canary. store_watch: whether the "
        "store may forget. population: whether the release meets what it was made for. check: a "
        "round of the consistency check. heartbeat, copy_log, time_stamp: of the compliance log.",
    ),
    Metric("sluice_task_every_seconds", "gauge", ("task",), "How often it is due."),
    Metric(
        "sluice_task_failures_total",
        "counter",
        ("task", "code"),
        "Runs that ended in an error; the next one is due all the same.",
        begins=(("copy_log", "log_copy_differs"), ("copy_log", "copy_differs")),
    ),
    # decider
    Metric(
        "sluice_decider_requests_total",
        "counter",
        ("entrypoint", "code"),
        "Authorizations by how they ended: decided, replayed, or the code of the refusal.",
    ),
    Metric(
        "sluice_decider_duration_seconds",
        "histogram",
        ("entrypoint",),
        "Receipt to answer (sync) or receipt to recorded batch (stream), per authorization.",
        SLO_SECONDS,
    ),
    Metric(
        "sluice_decider_stage_duration_seconds",
        "histogram",
        ("stage",),
        "One stage of the pipeline, per micro-batch: observe, finalise, score, decide, record.",
        SLO_SECONDS,
    ),
    Metric(
        "sluice_decider_batch_rows",
        "histogram",
        ("entrypoint",),
        "Authorizations decided together.",
        BATCH_ROWS,
    ),
    Metric("sluice_decider_in_flight", "gauge", (), "Requests inside the sync API at this moment."),
    Metric(
        "sluice_decider_limit",
        "gauge",
        (),
        "Authorizations that the sync API decides at once at most, as it has learned.",
    ),
    Metric(
        "sluice_decider_shed_total",
        "counter",
        ("reason", "priority"),
        "Authorizations refused under overload: late (waited too long), full (no place to stand), "
        "outranked (others were more important); by amount in the reference currency times "
        "weights: lowest below 1,000 minor units, low below 10,000, high below 100,000, highest.",
        begins=tuple(
            (reason, priority)
            for reason in ("late", "full", "outranked")
            for priority in ("lowest", "low", "high", "highest")
        ),
    ),
    Metric(
        "sluice_decider_decisions_total",
        "counter",
        ("entrypoint", "outcome"),
        "Decisions by outcome.",
    ),
    Metric("sluice_decider_reasons_total", "counter", ("reason",), "Reason codes given."),
    Metric(
        "sluice_decider_degradation_levels_total",
        "counter",
        ("degradation_level",),
        "Decisions by degradation level, D0 is complete.",
        begins=_each("D0", "D1", "D2", "D3"),
    ),
    Metric(
        "sluice_decider_degraded_total",
        "counter",
        ("part",),
        "Decisions made without a part: a view, the model; idempotency: nobody could say whether "
        "the id was decided before.",
        begins=(("idempotency",),),
    ),
    Metric(
        "sluice_decider_states_total",
        "counter",
        ("entity", "found"),
        "States served: held, new (never written) or missing (view not read).",
    ),
    Metric(
        "sluice_decider_state_age_seconds",
        "histogram",
        ("entity",),
        "Age of a state served: from the newest event in it to the authorization's event time; "
        "one decision in AGE_SAMPLE, states never written left out.",
        STATE_AGE_SECONDS,
    ),
    Metric(
        "sluice_decider_pending_total",
        "counter",
        (),
        "Pending entries that stood in for states not yet written.",
    ),
    Metric(
        "sluice_decider_recalled_total",
        "counter",
        (),
        "Answers that a replica learned from the tail of decisions.v1 at its start, or when "
        "partitions came to it.",
    ),
    Metric(
        "sluice_decider_recall_failures_total",
        "counter",
        (),
        "Records that could not be read, and times that the log could not; the store knows the "
        "same answers.",
    ),
    Metric(
        "sluice_decider_scorer_failures_total",
        "counter",
        ("why",),
        "Runs of the model that gave no score: the runtime failed, or gave no_probability.",
        begins=_each("runtime", "no_probability"),
    ),
    Metric(
        "sluice_decider_answers_failed_total",
        "counter",
        (),
        "Authorizations judged at the sync API whose answer could not be handed to the caller.",
    ),
    Metric(
        "sluice_decider_log_lines_total",
        "counter",
        ("entrypoint", "result"),
        "Lines of authorizations in the log: written, or left_out by sampling.",
    ),
    Metric(
        "sluice_decider_connections",
        "gauge",
        ("port",),
        "Open connections of the sync API: port api or admin.",
    ),
    Metric(
        "sluice_decider_connections_closed_total",
        "counter",
        ("port", "reason"),
        "Connections that were turned away, or not left to end by themselves: full, address_full, "
        "idle (closed for a newcomer), slow_sender, slow_reader, invalid_http, headers_too_large, "
        "overloaded (too much was held unparsed), not_connected (left, or no TLS), accept_failed "
        "(no file left), failed (a bug).",
        begins=tuple((port, reason) for port in ("api", "admin") for reason in CLOSED_BECAUSE),
    ),
    Metric(
        "sluice_decider_access_refused_total",
        "counter",
        ("reason",),
        "Requests of nobody known, of somebody who may not, or who asks for too much.",
        begins=_ACCESS_REASONS,
    ),
    Metric(
        "sluice_decider_access_open",
        "gauge",
        (),
        "1 where no credential is asked for and other machines can ask.",
    ),
    Metric(
        "sluice_decider_keys_reads_total",
        "counter",
        ("result",),
        "Reads of the token issuer's keys: read, or failed; then the last ones stay in use.",
        begins=_each("read", "failed"),
    ),
    Metric("sluice_decider_ready", "gauge", (), "1 if the last readiness rehearsal succeeded."),
    Metric("sluice_decider_release_info", "gauge", ("release",), "1 for the serving release."),
    Metric("sluice_decider_policy_info", "gauge", ("policy",), "1 for the policy in force."),
    Metric(
        "sluice_decider_refused_total",
        "counter",
        ("what", "code"),
        "Releases, policies, trust folders, files of clients and certificates refused; the last "
        "good one keeps serving.",
        begins=(
            *((what, code) for what in ("release", "policy") for code in _REFUSAL_CODES),
            *((what, code) for what in ("canary", "shadow") for code in ("corrupt", "too_slow")),
            *((what, "misconfigured") for what in ("trust", "clients", "certificate")),
            ("trust", "no_keys"),
        ),
    ),
    Metric(
        "sluice_decider_refusing",
        "gauge",
        ("what",),
        "1 while what lies in the folder of the release or the policy is not what decides, or "
        "the trust folder cannot be read, and nobody is trusted with anything new.",
    ),
    Metric(
        "sluice_decider_untrusted",
        "gauge",
        ("what",),
        "1 while what decides is signed by a key that is no longer trusted.",
    ),
    Metric(
        "sluice_decider_approvals_required",
        "gauge",
        ("what",),
        "Signatures that its activation needs; 0 takes what lies in the folder unsigned.",
    ),
    Metric(
        "sluice_decider_epoch_seconds",
        "gauge",
        ("what",),
        "Epoch of the activation by which it decides, seconds since 1970 UTC; 0 without one.",
    ),
    Metric(
        "sluice_decider_breaker_trips_total",
        "counter",
        ("kind", "remedy"),
        "Times that a rule, the block lists or the model declined too much of a tenant's traffic, "
        "by what was done: the newest change undone, the cause left_out, or none.",
        begins=(
            *((kind, remedy) for kind in ("rule", "model") for remedy in ("undone", "left_out")),
            ("lists", "undone"),
            ("lists", "none"),
        ),
    ),
    Metric(
        "sluice_decider_breaker_open",
        "gauge",
        ("kind",),
        "Trips that were not reset yet.",
    ),
    Metric(
        "sluice_decider_out_of_domain",
        "gauge",
        (),
        "1 while the release meets another population than it was made for.",
    ),
    Metric(
        "sluice_decider_reference_rows",
        "gauge",
        (),
        "Rows of the reference that it is compared with; 0 if the release has none.",
    ),
    Metric(
        "sluice_decider_population_rows",
        "gauge",
        (),
        "Decisions compared: a sample of the last hour, or of more where there were few.",
    ),
    Metric(
        "sluice_decider_score_psi_ratio",
        "gauge",
        (),
        "Population stability index of the score; out of domain from 0.25 on.",
    ),
    Metric(
        "sluice_decider_inputs_shifted_ratio",
        "gauge",
        (),
        "Share of the release's inputs with an index from 0.25 on; out of domain from 0.4 on.",
    ),
    Metric(
        "sluice_decider_alerts_to_promised_ratio",
        "gauge",
        (),
        "Decisions with a score above the reference's highest 0.5 %, as a multiple of what that "
        "promises.",
    ),
    Metric(
        "sluice_decider_most_shifted_input_info",
        "gauge",
        ("feature",),
        "1 for the input with the highest index.",
    ),
    Metric(
        "sluice_decider_beside_share",
        "gauge",
        ("role",),
        "Share of the cards that the canary answers, and of the decisions that the shadow scores; "
        "0 without one.",
    ),
    Metric(
        "sluice_decider_returned_total",
        "counter",
        ("role", "reason"),
        "Canaries and shadows that this decider took out by itself, by what it found.",
        begins=(*(("canary", reason) for reason in BACK_BECAUSE), ("shadow", "errors")),
    ),
    Metric(
        "sluice_decider_canary_rows_total", "counter", (), "Decisions that the canary answered."
    ),
    Metric("sluice_decider_shadow_rows_total", "counter", (), "Decisions that the shadow scored."),
    Metric(
        "sluice_decider_shadow_cpu_seconds_total",
        "counter",
        (),
        "Processor time that the shadow took, beside the decisions.",
    ),
    Metric(
        "sluice_decider_shadow_flips_total",
        "counter",
        ("direction",),
        "Decisions that the shadow would have made stricter, or laxer.",
        begins=_each("stricter", "laxer"),
    ),
    Metric(
        "sluice_decider_shadow_failures_total",
        "counter",
        (),
        "Runs of the shadow that gave no score.",
    ),
    Metric(
        "sluice_decider_beside_left_out_total",
        "counter",
        ("role",),
        "Decisions that shadow or canary were not compared on: the queue was full, or the shadow "
        "had taken its share of the processor.",
        begins=_each("canary", "shadow"),
    ),
    Metric(
        "sluice_decider_let_through_total",
        "counter",
        ("result",),
        "Would-be declines that the policy drew to be let through: approved, or declined all the "
        "same because the day's budget of this process was spent.",
        begins=_each("approved", "spent"),
    ),
    Metric(
        "sluice_decider_let_through_minor_total",
        "counter",
        (),
        "Amount of those approved, in minor units of the reference currency.",
    ),
    # every user of states
    Metric(
        "sluice_store_ready",
        "gauge",
        (),
        "1 while the store's states are served (decider) or made (featurizer); 0 when it lost "
        "some, until they are rebuilt, when they are of another format, when it may evict, and "
        "when it turns us away. The log says which: store_not_used.",
    ),
    Metric(
        "sluice_store_failures_total",
        "counter",
        ("why",),
        "Batches of commands that got no answer: timeout (past the budget), down (no connection), "
        "lost (it broke meanwhile), full (too many are unanswered), refused (every command was).",
        begins=_each("timeout", "down", "lost", "full", "refused"),
    ),
    Metric(
        "sluice_store_errors_total",
        "counter",
        ("code",),
        "Commands refused by the server, by its own first word: OOM, READONLY, NOPERM. "
        "UNANSWERED: their node of a cluster did not answer.",
        begins=_STORE_CODES,
    ),
    Metric(
        "sluice_store_connects_total",
        "counter",
        ("result",),
        "Connections made, the first included, and tries that failed.",
        begins=_each("made", "failed"),
    ),
    Metric(
        "sluice_store_connections_lost_total",
        "counter",
        ("why",),
        "Connections that ended without us: closed (by the other side), hang (no answer for too "
        "long), protocol (not what a store says).",
        begins=_each("closed", "hang", "protocol"),
    ),
    Metric(
        "sluice_store_redirects_total",
        "counter",
        ("how",),
        "Commands that a node of a cluster sent elsewhere: moved (its slot has another owner) or "
        "ask (its slot is on its way). They are asked once more.",
        begins=_each("moved", "ask"),
    ),
    Metric(
        "sluice_store_owner_changes_total",
        "counter",
        (),
        "Times that slots of a cluster had another owner: a replica took over, or a reshard.",
    ),
    Metric(
        "sluice_store_posts_lost_total",
        "counter",
        ("why",),
        "Batches of commands that nobody waits for (answers to remember, idempotency records to "
        "release) and that did not take effect, for all we know: down, full, lost, refused.",
        begins=_each("down", "full", "lost", "refused"),
    ),
    Metric(
        "sluice_store_states_unreadable_total",
        "counter",
        ("entity",),
        "States whose reply was an error or no state; a decider leaves that view out.",
        begins=_ENTITIES,
    ),
    Metric(
        "sluice_store_idempotency_refused_total",
        "counter",
        (),
        "Times that the store refused to keep an idempotency record. If it knows no answer either, "
        "what becomes of the authorization is the policy's choice.",
    ),
    Metric(
        "sluice_store_pending_refused_total",
        "counter",
        (),
        "Authorizations that left no pending entry for the next one of their card.",
    ),
    Metric(
        "sluice_store_pending_dropped_total",
        "counter",
        (),
        "Pending entries pushed out by 64 newer ones of the same card.",
    ),
    Metric(
        "sluice_store_pending_undecodable_total",
        "counter",
        (),
        "Pending entries that could not be read, and were left out.",
    ),
    Metric("sluice_store_used_memory_bytes", "gauge", (), "Memory the store uses, as it says."),
    Metric("sluice_store_max_memory_bytes", "gauge", (), "Its bound; 0 for none."),
    Metric(
        "sluice_store_evicted_keys",
        "gauge",
        (),
        "Keys evicted since the store's server started. An evicted state reads as never written, "
        "so that the store counts as lost when they rise.",
    ),
    Metric(
        "sluice_store_eviction_policy_info",
        "gauge",
        ("policy",),
        "1 for the store's maxmemory-policy, or unknown where it does not tell. Must be "
        "noeviction; with any other one the store counts as lost.",
    ),
    # every consumer
    Metric(
        "sluice_consumer_lag_messages",
        "gauge",
        ("topic", "partition"),
        "Messages behind the end of the partition; those not committed while batches fail and "
        "nothing can be read.",
    ),
    Metric("sluice_consumer_messages_total", "counter", ("topic",), "Messages read and committed."),
    Metric(
        "sluice_consumer_batches_total",
        "counter",
        (),
        "Batches handled. Each has a cost of its own: few messages to a batch make each dear.",
    ),
    Metric(
        "sluice_consumer_aborts_total",
        "counter",
        ("code",),
        "Batches that were given up and read again.",
        begins=_ABORT_CODES,
    ),
    Metric(
        "sluice_consumer_poison_total",
        "counter",
        ("code",),
        "Messages that broke the decider while they were read, or alone in a batch; they become "
        "dead letters.",
        begins=_each("internal", "rejected", "too_large"),
    ),
    Metric(
        "sluice_consumer_partitions_lost_total",
        "counter",
        ("topic",),
        "Partitions taken from a member without a hand-over: it was silent for too long.",
    ),
    Metric(
        "sluice_consumer_topics_remade_total",
        "counter",
        ("topic",),
        "Times that a topic was found to be another one than the one read before: it was deleted "
        "and made again, and its offsets mean other records.",
    ),
    Metric(
        "sluice_consumer_records_gone_total",
        "counter",
        ("topic",),
        "Times that a partition no longer held what was to be read next: it expired unread.",
    ),
    Metric(
        "sluice_consumer_commits_failed_total",
        "counter",
        ("code",),
        "Offsets not committed by a commit that nobody waits for; the next one commits for it too.",
        begins=_KAFKA_CODES,
    ),
    # every client of Kafka
    Metric(
        "sluice_kafka_errors_total",
        "counter",
        ("code",),
        "Errors that a client heals by itself, a lost connection above all, by librdkafka's name.",
        begins=_KAFKA_CODES,
    ),
    # every producer
    Metric(
        "sluice_producer_failed_total",
        "counter",
        ("code",),
        "Records the client gave up, by librdkafka's name of the error.",
        begins=_KAFKA_CODES,
    ),
    Metric(
        "sluice_producer_appends_late_total",
        "counter",
        (),
        "Appends of the sync API not acknowledged within decider.record_budget_ms.",
    ),
    Metric(
        "sluice_producer_appends_durable_late_total",
        "counter",
        (),
        "Those of them whose records all became durable afterwards: whoever asks again hears them.",
    ),
    Metric(
        "sluice_producer_queue_full_total",
        "counter",
        (),
        "Records that found the client's queue full, and waited or were refused.",
    ),
    Metric(
        "sluice_producer_retries_total",
        "counter",
        ("code",),
        "Steps of a transaction taken again, by librdkafka's name of the error.",
        begins=_KAFKA_CODES,
    ),
    Metric(
        "sluice_producer_renewed_total",
        "counter",
        (),
        "Transactional clients made anew, because the broker said nothing for longer than a "
        "transaction may take.",
    ),
    Metric(
        "sluice_dead_letters_total",
        "counter",
        ("service", "code"),
        "Dead letters written.",
        begins=(
            *(("decider", code) for code in _DEAD_LETTER_CODES),
            ("labeller", "report_conflict"),
            ("labeller", "unknown_authorization"),
        ),
    ),
    # featurizer
    Metric(
        "sluice_featurizer_events_total",
        "counter",
        ("topic", "result"),
        "Events by result: applied, redelivered, duplicate, too_old; superseded is a second record "
        "of an id; a label that repeats what was known, or is outranked, changes no state.",
        begins=(("decisions", "too_old"), ("observations", "too_old"), ("decisions", "superseded")),
    ),
    Metric("sluice_featurizer_states_written_total", "counter", ("entity",), "States stored."),
    Metric(
        "sluice_featurizer_conflicts_total",
        "counter",
        ("entity",),
        "Writes refused because another writer came first.",
        begins=_ENTITIES,
    ),
    Metric(
        "sluice_featurizer_stage_duration_seconds",
        "histogram",
        ("stage",),
        "One stage of a batch: decode, write, produce; batch is all that is done with one.",
        SLO_SECONDS,
    ),
    Metric(
        "sluice_featurizer_age_seconds",
        "histogram",
        ("topic",),
        "Decision made (or label known) to state stored.",
        AGE_SECONDS,
    ),
    # archiver
    Metric("sluice_archiver_rows_total", "counter", ("topic",), "Rows archived."),
    Metric("sluice_archiver_files_total", "counter", ("topic",), "Parquet files completed."),
    Metric(
        "sluice_archiver_refilled_total",
        "counter",
        ("topic",),
        "Offsets read again because they were archived once and their files are gone.",
    ),
    Metric(
        "sluice_archiver_age_seconds",
        "histogram",
        ("topic",),
        "Record written to file completed.",
        AGE_SECONDS,
    ),
    # labeller
    Metric(
        "sluice_labeller_reports_total",
        "counter",
        ("intake", "result"),
        "Reports by how they came (http, kafka) and what became of them: new, turned (otherwise "
        "than what was known, and it counts), repeats, outranked, duplicate (sent before), or the "
        "code of what refused it.",
        begins=tuple(
            (intake, result)
            for intake in ("http", "kafka")
            for result in ("report_conflict", "unknown_authorization")
        ),
    ),
    Metric(
        "sluice_labeller_labels_total",
        "counter",
        ("kind", "is_fraud"),
        "Labels written.",
    ),
    Metric(
        "sluice_labeller_late_total",
        "counter",
        ("kind",),
        "Labels that reached us more than a day after their source knew: what was decided in "
        "between did not know.",
    ),
    Metric(
        "sluice_labeller_failed_total",
        "counter",
        ("code",),
        "Batches of reports that could not be made durable; whoever sent them sends them again.",
        begins=_each("unavailable"),
    ),
    Metric(
        "sluice_labeller_waiting",
        "gauge",
        (),
        "Reports that came over HTTP and have no answer yet.",
    ),
    Metric(
        "sluice_labeller_remembered",
        "gauge",
        ("what",),
        "Reports and authorizations in memory: all of the topic, some 500 bytes for both.",
    ),
    Metric(
        "sluice_labeller_take_duration_seconds",
        "histogram",
        (),
        "A batch of reports to durable labels.",
        AGE_SECONDS,
    ),
    Metric(
        "sluice_labeller_known_ratio",
        "gauge",
        ("channel", "source", "days"),
        "Of the frauds of a channel that a source reported, of authorizations old enough to tell: "
        "the share that was known after so many days (sluice labels maturity).",
    ),
    # auditor
    Metric("sluice_auditor_size", "gauge", (), "Entries of the log that are durable."),
    Metric("sluice_auditor_signed_size", "gauge", (), "Entries that the newest checkpoint shows."),
    Metric(
        "sluice_auditor_checkpoint_timestamp_seconds",
        "gauge",
        (),
        "When the newest checkpoint was begun: all that was durable by then is in it.",
    ),
    Metric(
        "sluice_auditor_checkpoint_seconds",
        "histogram",
        (),
        "A checkpoint begun to shown: tiles written, head signed, published and cosigned.",
        AGE_SECONDS,
    ),
    Metric(
        "sluice_auditor_append_seconds",
        "histogram",
        (),
        "A batch read to its entries durable: schema, scanner, seals and one fsync.",
        SLO_SECONDS,
    ),
    Metric(
        "sluice_auditor_age_seconds",
        "histogram",
        (),
        "Record written to its entry durable.",
        LOG_AGE_SECONDS,
    ),
    Metric(
        "sluice_auditor_gaps_total",
        "counter",
        ("reason",),
        "Offsets without a record of their own, by the reason that the log gives: "
        "transaction_marker and aborted are Kafka's usual; expired, forbidden_content, unreadable "
        "and too_large are somebody's fault; given_up counts an emitter's numbers.",
        begins=_each(
            *("transaction_marker", "aborted", "expired", "forbidden_content", "unreadable"),
            *("too_large", "given_up"),
        ),
    ),
    Metric(
        "sluice_auditor_cosigned_total",
        "counter",
        ("witness", "result"),
        "What became of a checkpoint at a witness: cosigned, late, unavailable, no_witness (its "
        "answer is none), refused and the like; and those of sluice_auditor_contradicted_total.",
    ),
    Metric(
        "sluice_auditor_contradicted_total",
        "counter",
        ("result",),
        "Answers of witnesses that speak against this log: ahead (more entries were cosigned than "
        "it has), other_root, inconsistent.",
        begins=_each("ahead", "other_root", "inconsistent"),
    ),
    Metric(
        "sluice_auditor_copied_size",
        "gauge",
        (),
        "Entries of the checkpoint that the copy in the bucket has.",
    ),
    Metric(
        "sluice_auditor_time_stamp_timestamp_seconds",
        "gauge",
        (),
        "Time that an authority gave the last stamped checkpoint.",
    ),
    # witness
    Metric(
        "sluice_witness_checkpoints_total",
        "counter",
        ("result",),
        "Checkpoints that a log asked to have cosigned, by result: cosigned, first (of a log of "
        "which nothing was remembered), behind (it asks again), or what refused it. other_root "
        "and inconsistent speak against the log.",
        begins=_each(
            *("first", "malformed", "unknown_log", "not_signed", "shrinks", "other_root"),
            *("inconsistent", "clock_back", "not_remembered"),
        ),
    ),
    Metric(
        "sluice_witness_size",
        "gauge",
        ("log",),
        "Entries of the last checkpoint of a log that was cosigned.",
    ),
    # consistency check
    Metric(
        "sluice_consistency_decisions_total",
        "counter",
        ("result",),
        "Decisions of the sample: equal, differing (page!), other_catalogue (by another build), "
        "too_large (entities with too many events), gave_up (waited in vain).",
        begins=_each("equal", "differing", "other_catalogue", "too_large", "gave_up"),
    ),
    Metric(
        "sluice_consistency_replays_total",
        "counter",
        ("result",),
        "Decisions of the sample judged again, score, policy and reasons: equal, differing "
        "(page!), no_policy, no_release (not where the check looks), failed (by an error of their "
        "own).",
        begins=_each("equal", "differing", "no_policy", "no_release", "failed"),
    ),
    Metric(
        "sluice_consistency_parity_ratio",
        "gauge",
        (),
        "Equal of the compared, in the newest round that compared any; 1 or somebody is paged.",
    ),
    Metric(
        "sluice_consistency_worst_feature_info",
        "gauge",
        ("feature",),
        "1 for the feature that most vectors differ in, in the newest round with a difference.",
    ),
    Metric(
        "sluice_consistency_waiting",
        "gauge",
        (),
        "Decisions of the sample served from events that the archive does not hold yet.",
    ),
    Metric(
        "sluice_consistency_oldest_waiting_seconds",
        "gauge",
        (),
        "Age of the oldest of them, 0 for none.",
    ),
    Metric(
        "sluice_consistency_behind_seconds",
        "histogram",
        ("entity",),
        "How far behind a state was when served: age of the oldest decision about the entity that "
        "neither it nor the pending entries held.",
        AGE_SECONDS,
    ),
    Metric(
        "sluice_consistency_behind_quantile_seconds",
        "gauge",
        ("entity", "quantile"),
        "The same, p50 and p99 of the newest round.",
    ),
    Metric(
        "sluice_consistency_pending_total",
        "counter",
        ("effect",),
        "Decisions with pending entries: mattered (another vector without them) or same.",
    ),
    Metric(
        "sluice_consistency_defaulted_total",
        "counter",
        ("entity", "why"),
        "Decisions whose features of an entity were all defaults: missing (view) or new (entity).",
    ),
    Metric("sluice_consistency_round_seconds", "gauge", (), "How long the newest round took."),
)
