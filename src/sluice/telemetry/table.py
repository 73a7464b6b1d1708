"""Every metric of every service, with all its labels.

A name that is not here cannot be used; ``sluice reference`` writes the table to
docs/reference/metrics.md. Labels are bounded words, never identifiers.
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
STATE_AGE_SECONDS = (1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0)
AGE_SAMPLE = 8
BATCH_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
LABEL_SETS_MAX = 256
"""Label sets one metric may have; any further one is counted under "other". Guards the scraper."""


class Metric(NamedTuple):
    """One row of the table. buckets: upper bounds of a histogram, in the unit of its name."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()


TABLE: tuple[Metric, ...] = (
    Metric("sluice_build_info", "gauge", ("service", "version"), "1 for the running version."),
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
    ),
    Metric(
        "sluice_decider_degraded_total",
        "counter",
        ("part",),
        "Decisions made without a part: a view, the model.",
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
        "sluice_decider_log_lines_total",
        "counter",
        ("entrypoint", "result"),
        "Lines of authorizations in the log: written, or left_out by sampling.",
    ),
    Metric("sluice_decider_ready", "gauge", (), "1 if the last readiness rehearsal succeeded."),
    Metric("sluice_decider_release_info", "gauge", ("release",), "1 for the serving release."),
    Metric("sluice_decider_policy_info", "gauge", ("policy",), "1 for the policy in force."),
    Metric(
        "sluice_decider_refused_total",
        "counter",
        ("what", "code"),
        "Releases and policies refused at load; the last good one keeps serving.",
    ),
    # every user of states
    Metric(
        "sluice_store_ready",
        "gauge",
        (),
        "1 while the store's states are served (decider) or made (featurizer); 0 when it lost "
        "some, until they are rebuilt.",
    ),
    # every consumer
    Metric(
        "sluice_consumer_lag_messages",
        "gauge",
        ("topic", "partition"),
        "Messages behind the end of the partition.",
    ),
    Metric("sluice_consumer_messages_total", "counter", ("topic",), "Messages read and committed."),
    Metric(
        "sluice_consumer_aborts_total",
        "counter",
        ("code",),
        "Batches that were given up and read again.",
    ),
    Metric("sluice_dead_letters_total", "counter", ("service", "code"), "Dead letters written."),
    # featurizer
    Metric(
        "sluice_featurizer_events_total",
        "counter",
        ("topic", "result"),
        "Events by result: applied, redelivered, duplicate, too_old.",
    ),
    Metric("sluice_featurizer_states_written_total", "counter", ("entity",), "States stored."),
    Metric(
        "sluice_featurizer_conflicts_total",
        "counter",
        ("entity",),
        "Writes refused because another writer came first.",
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
        "sluice_archiver_age_seconds",
        "histogram",
        ("topic",),
        "Record written to file completed.",
        AGE_SECONDS,
    ),
    # consistency check
    Metric(
        "sluice_consistency_decisions_total",
        "counter",
        ("result",),
        "Decisions of the sample: equal, differing (page!), other_catalogue (of another release), "
        "too_large (entities with too many events), gave_up (waited in vain).",
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
