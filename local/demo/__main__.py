"""Run everything embedded for a minute, show it, stop it, and check the sums.

  make demo                          or, with other numbers:
  make demo ARGS="--rate 1000 --seconds 30"

Everything it leaves is in var/demo. Exit status 0 only if every authorization was decided once.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
from sluice_simulator.config import load as load_world
from sluice_simulator.history import write as write_history
from sluice_simulator.world import World

from local import metrics_page
from local.demo.tally import Seen, Summary, Tally
from local.demo.view import Gauges, View
from local.stack import Stack
from sluice.adapters.files.past import read_past
from sluice.adapters.kafka.consumer import GroupConsumer
from sluice.adapters.kafka.embedded import EmbeddedBroker
from sluice.adapters.kafka.topics import Topics
from sluice.adapters.parquet.archive import Archive
from sluice.adapters.redis.embedded import EmbeddedStore
from sluice.bootstrap import verbs
from sluice.bootstrap.services import store_at
from sluice.domain.records.authorization import Authorization
from sluice.domain.records.outcome import Outcome
from sluice.errors import SluiceError, Unavailable
from sluice.settings import load as load_settings

FOLDER = Path("var/demo")
START = date(2026, 9, 1)
KNOWN_AFTER_US = 3 * 3_600_000_000
"""How long after an authorization the bank knows what became of it, in the demo's time."""
NAMED = (
    *("authorization_id", "tenant", "event_at", "channel"),
    *("card_token", "merchant_id", "terminal_id", "device_id"),
)
"""Of an authorization, in a report."""
YEARS_US = 10 * 366 * 86_400
"""Simulated time is not ours: the demo's deciders accept event times far from their clock."""
DRAIN_MAX_S = 60.0
LOOK_S = 0.5
QUIET_LOOKS = 4
"""Lag is shown once a second."""


class _Decided(msgspec.Struct, frozen=True):
    """What the demo reads of a decision."""

    authorization: Authorization
    outcome: Outcome
    degradation_level: str
    entrypoint: str
    reference_amount_minor: int


_decoder = msgspec.json.Decoder(_Decided)


def main() -> int:
    """Returns 0 if all sums agree."""
    args = _arguments()
    began = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    say = _Steps(began)
    say("Sluice, all of it on this machine. The broker is the mock cluster inside librdkafka:")
    say("a real protocol over real sockets, but it keeps nothing on disk and promises nothing")
    say("after a kill. `make kafka` starts a real one; the tests run on that.")
    say("")
    world = World(load_world(None, cards=args.cards, fraud_bp=args.fraud_bp), args.seed)
    live = START + timedelta(days=args.days)
    with (
        _Embedded() as broker,
        EmbeddedStore(directory=FOLDER / "store") as store,
        Stack(broker.bootstrap, store.url, FOLDER, _environment()) as stack,
    ):
        stack.start_all(wait=False)
        labeller = stack.start("labeller")
        public = stack.make_log_keys()
        stack.start("auditor")
        _history(world, args.days, store.url, say)
        say("waiting for decider (2 entrypoints), featurizer, archiver, labeller, auditor")
        stack.wait_all()
        truth = _truth(world, live, round(args.rate * args.seconds * 1.02) + 1000)
        tally = Tally(truth)
        say(f"streaming {args.rate:,}/s for {args.seconds} s, {args.http_share:.0%} over HTTP,")
        say("as soon as the simulator has made its first day")
        say("")
        sender = _send(args, broker.bootstrap, stack.url, live)
        with View(args.seconds) as view:
            watch = _Watcher(broker.bootstrap, stack, tally, view)
            watch.until(
                lambda: bool(tally.decisions) or sender.poll() is not None, None, show=False
            )
            view.start()
            watch.until(lambda: sender.poll() is not None, None)
            sent = _sent(sender)
            watch.until(lambda: len(tally.decisions) >= sent["sent"], DRAIN_MAX_S)
            watch.close()
        gauges = watch.gauges()
        reports = _report_fraud(stack, labeller.port, watch.worth_a_report, truth, say)
        codes = stack.stop_all(but="auditor")
        _told(stack)
        codes |= stack.stop_all()
        verify = ("log", "verify", str(FOLDER / "log/0"), "--key", str(public), "--accounting")
        verified = stack.verb(*verify)
    summary = _summary(tally, sent, watch, gauges, codes, reports, verified.returncode)
    (FOLDER / "summary.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"
    )
    _report(summary, time.monotonic() - began)
    print(f"\n  ./sluice {' '.join(verify)}\n")
    print(verified.stdout + verified.stderr)
    print("  The broker ended with the demo: to ask again, add --offline.")
    return 0 if summary.ok else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--rate", type=int, default=600, help="authorizations a second")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--cards", type=int, default=30_000)
    parser.add_argument("--days", type=int, default=14, help="of history before the stream")
    parser.add_argument("--fraud-bp", type=float, default=30.0)
    parser.add_argument("--http-share", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=2026)
    return parser.parse_args()


class _Steps:
    def __init__(self, began: float) -> None:
        self._began = began

    def __call__(self, text: str) -> None:
        stamp = f"{time.monotonic() - self._began:5.1f} s  " if text else ""
        print(f"{stamp}{text}", flush=True)


class _Embedded(EmbeddedBroker):
    """The embedded broker with its topics, as a context manager."""

    def __enter__(self) -> _Embedded:
        self.create(Topics())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _environment() -> dict[str, str]:
    return {
        "SLUICE_DECIDER_MAX_EVENT_AGE_S": str(YEARS_US),
        "SLUICE_DECIDER_MAX_EVENT_AHEAD_S": str(YEARS_US),
        "SLUICE_DECIDER_DRAIN_S": "1",
        "SLUICE_ARCHIVER_ROLL_S": "5",
    }


def _history(world: World, days: int, store_url: str, say: _Steps) -> None:
    """Simulate the days before, run them through the kernel, and load the store."""
    folder = FOLDER / "history"
    about = write_history(world, START, days, folder)
    say(f"simulated {about['authorizations']:,} authorizations of {days} days before")
    past = read_past(folder / "authorizations.parquet", folder / "labels.parquet")
    archived = verbs.archive_past(
        past.between(None, None),
        verbs.rates(load_settings()[0]),
        FOLDER / "archive",
        threads=os.cpu_count() or 1,
    )
    made = list(archived.states)
    store = store_at(store_url)
    states, watermark = store.states(), store.watermark()
    states.write(made)
    watermark.initialise()
    states.close()
    watermark.close()
    say(f"ran them through the kernel, wrote the feature log and stored {len(made):,} states")


def _truth(world: World, start: date, rows: int) -> dict[str, bool]:
    """What is true of the first rows of the stream."""
    truth: dict[str, bool] = {}
    for number in itertools.count():
        batch = world.day(start + timedelta(days=number)).truth()
        ids, frauds = batch.column("authorization_id"), batch.column("is_fraud")
        truth |= zip(ids.to_pylist(), frauds.to_pylist(), strict=True)
        if len(truth) >= rows:
            break
    return truth


def _send(
    args: argparse.Namespace, bootstrap_servers: str, url: str, start: date
) -> subprocess.Popen[str]:
    command = [
        str(Path(sys.executable).parent / "sluice"), "simulate", "stream",
        "--bootstrap", bootstrap_servers, "--http", url, "--http-share", str(args.http_share),
        "--rate", str(args.rate), "--duration", str(args.seconds),
        "--cards", str(args.cards), "--fraud-bp", str(args.fraud_bp), "--seed", str(args.seed),
        "--start", start.isoformat(), "--labels", START.isoformat(),
        "--truth", str(FOLDER / "truth.parquet"),
    ]  # fmt: skip
    with (FOLDER / "simulator.log").open("w") as log:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)


def _sent(sender: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = sender.communicate()
    try:
        report: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    except (IndexError, ValueError) as exc:
        raise Unavailable(
            f"the simulator gave up with status {sender.returncode}",
            where=str(FOLDER / "simulator.log"),
        ) from exc
    return report


def _report_fraud(
    stack: Stack,
    port: int,
    decided: list[tuple[Authorization, bool]],
    truth: dict[str, bool],
    say: _Steps,
) -> int:
    """Send what the bank learns to the labeller: of what was stopped an analyst's verdict, of what
    was not the issuer's report. Returns how many; what became of them the archive says."""
    file = FOLDER / "reports.csv"
    with file.open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["report_id", "source", "kind", "is_fraud", "known_at", *NAMED])
        for number, (auth, stopped) in enumerate(decided):
            kind, source = ("verdict", "analysts") if stopped else ("issuer_report", "issuer")
            known_at = auth.event_at + KNOWN_AFTER_US
            fraud = "yes" if truth.get(auth.authorization_id) else "no"
            about = ("" if (value := getattr(auth, name)) is None else value for name in NAMED)
            rows.writerow([f"demo-{number}", source, kind, fraud, known_at, *about])
    url = f"http://127.0.0.1:{port}"
    done = stack.verb("labels", "send", str(file), "--url", url)
    say(f"reported what the bank learnt of {len(decided):,} of them to the labeller")
    if done.returncode:
        say(f"sluice labels send ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return len(decided)


class _Watcher:
    """Reads decisions and dead letters as anyone could, and asks the services how they are."""

    def __init__(self, servers: str, stack: Stack, tally: Tally, view: View) -> None:
        topics = Topics()
        self._decisions = topics.decisions
        self._consumer = GroupConsumer(
            servers,
            group="sluice-demo",
            topics=[topics.decisions, topics.dead_letters],
            client_id="demo",
        )
        self._stack = stack
        self._tally = tally
        self._view = view
        self.dead_letters = 0
        self.worth_a_report: list[tuple[Authorization, bool]] = []
        """Stopped, or fraud that was not; and whether it was stopped."""

    def until(
        self, done: Callable[[], bool], at_most_s: float | None, *, show: bool = True
    ) -> None:
        """Count and show until done() or the time is up."""
        until = time.monotonic() + at_most_s if at_most_s is not None else None
        while not done():
            for message in self._consumer.poll_batch(2000, 0.1):
                if message.topic != self._decisions:
                    self.dead_letters += 1
                    continue
                part = _decoder.decode(message.value)
                auth, stopped = part.authorization, part.outcome is not Outcome.APPROVE
                if stopped or self._tally.truth.get(auth.authorization_id):
                    self.worth_a_report.append((auth, stopped))
                self._tally.add(
                    Seen(
                        auth.authorization_id,
                        part.outcome,
                        part.degradation_level,  # type: ignore[arg-type]
                        part.entrypoint,  # type: ignore[arg-type]
                        part.reference_amount_minor,
                    )
                )
            if show and self._view.due():
                self._view.show(self._tally, self.gauges())
            if until is not None and time.monotonic() > until:
                return

    def gauges(self) -> Gauges:
        """Ask every service; what does not answer stays None."""
        found = {}
        for name, process in self._stack.processes.items():
            try:
                found[name] = process.metrics()
            except OSError:
                continue
        stream, sync = found.get("decider-stream"), found.get("decider-sync")
        featurizer, archiver = found.get("featurizer"), found.get("archiver")
        return Gauges(
            lag=_total(stream, "sluice_consumer_lag_messages"),
            featurizer_lag=_total(featurizer, "sluice_consumer_lag_messages"),
            states=_total(featurizer, "sluice_featurizer_states_written_total"),
            archived=_total(archiver, "sluice_archiver_rows_total"),
            sync_ms=_percentiles(sync, "sync"),
            stream_ms=_percentiles(stream, "stream"),
        )

    def close(self) -> None:
        """Last look, then leave the group."""
        self._view.show(self._tally, self.gauges())
        self._consumer.close()


def _total(page: str | None, name: str) -> float | None:
    return None if page is None else metrics_page.total(page, name)


def _percentiles(page: str | None, entrypoint: str) -> tuple[float, float] | None:
    """(p50, p99) of the entrypoint in milliseconds."""
    if page is None:
        return None
    name = "sluice_decider_duration_seconds"
    low, high = (
        metrics_page.percentile(page, name, q, entrypoint=entrypoint) for q in (0.50, 0.99)
    )
    return None if low is None or high is None else (low * 1000, high * 1000)


def _summary(
    tally: Tally,
    sent: dict[str, object],
    watch: _Watcher,
    gauges: Gauges,
    codes: dict[str, int],
    reports: int,
    verified: int,
) -> Summary:
    ids = pq.read_table(FOLDER / "truth.parquet", columns=["authorization_id"])
    expected = set(ids.column(0).to_pylist())
    archived = _archived()
    labels = [one.report_id for one in Archive(FOLDER / "archive").labels() if one.report_id]
    checks = {
        "every authorization sent is in the truth file": len(expected) == sent["sent"],
        "no decision is missing": tally.missing(expected) == 0,
        "none was decided twice": tally.duplicates == 0,
        "none was decided that was not sent": tally.unexpected == 0,
        "nothing was dead-lettered": watch.dead_letters == 0,
        "the archive holds each decision once": sorted(archived) == sorted(tally.decisions),
        "each report is one label of the archive": len(set(labels)) == len(labels) == reports,
        "the sender had no errors": bool(sent["ok"]),
        "every service stopped cleanly": not any(codes.values()),
        "the compliance log verifies, and none is missing": verified == 0,
    }
    stream = gauges.stream_ms
    return Summary(
        authorizations=len(expected),
        decisions=len(tally.decisions),
        duplicates=tally.duplicates,
        missing=tally.missing(expected),
        unexpected=tally.unexpected,
        dead_letters=watch.dead_letters,
        degraded=tally.degraded,
        frauds=tally.frauds,
        frauds_stopped=tally.frauds_stopped,
        fraud_bp=round(10_000 * tally.frauds / max(len(tally.decisions), 1), 2),
        eur_fraud=tally.fraud_minor / 100,
        eur_stopped=tally.stopped_minor / 100,
        eur_missed=tally.missed_minor / 100,
        false_positives_per_10k=tally.false_positives_per_10k,
        p50_ms=_ms(sent["http_p50_us"]),
        p99_ms=_ms(sent["http_p99_us"]),
        stream_p50_ms=round(stream[0], 1) if stream else None,
        stream_p99_ms=round(stream[1], 1) if stream else None,
        rate=float(str(sent["rate"])),
        archived=len(archived),
        reports=reports,
        states=int(gauges.states or 0),
        release=_release(),
        broker="mock cluster inside librdkafka",
        ok=all(checks.values()),
        failed=[name for name, held in checks.items() if not held],
    )


def _told(stack: Stack) -> None:
    """Until the auditor has read all that there is: so many times in a row nothing was left."""
    until = time.monotonic() + DRAIN_MAX_S
    quiet = 0
    while quiet < QUIET_LOOKS and time.monotonic() < until:
        time.sleep(LOOK_S)
        lag = stack.processes["auditor"].metric("sluice_consumer_lag_messages")
        quiet = quiet + 1 if lag == 0 else 0


def _archived() -> list[str]:
    files = sorted((FOLDER / "archive").rglob("decisions/**/*.parquet"))
    found: list[str] = []
    for file in files:
        found += pq.read_table(file, columns=["authorization_id"]).column(0).to_pylist()
    return found


def _release() -> str | None:
    manifest = Path(load_settings()[0].decider.release_dir) / "manifest.json"
    return json.loads(manifest.read_text())["id"] if manifest.exists() else None


def _ms(micros: object) -> float | None:
    return None if micros is None else round(float(str(micros)) / 1000, 2)


def _report(s: Summary, seconds: float) -> None:
    rows = [
        ("authorizations", f"{s.authorizations:,} sent at {s.rate:,.0f}/s"),
        ("decisions", f"{s.decisions:,}: {s.missing} missing, {s.duplicates} twice, "
                      f"{s.degraded:,} degraded"),
        ("fraud", f"{s.frauds:,} ({s.fraud_bp:.0f} in 10,000), EUR {s.eur_fraud:,.2f}"),
        ("  stopped", f"{s.frauds_stopped:,}, EUR {s.eur_stopped:,.2f}"),
        ("  missed", f"{s.frauds - s.frauds_stopped:,}, EUR {s.eur_missed:,.2f}"),
        ("false positives", f"{s.false_positives_per_10k:.1f} of 10,000 genuine authorizations"),
        ("reported", f"{s.reports:,} to the labeller, each a label"),
        ("sync API", f"p50 {s.p50_ms} ms, p99 {s.p99_ms} ms, from due to answered"),
        (
            "stream processor",
            f"p50 {s.stream_p50_ms} ms, p99 {s.stream_p99_ms} ms, from read to record",
        ),
        ("model", s.release or "none: decided by the fallback rules"),
        ("files", f"{FOLDER}/: summary.json, truth.parquet, archive/, *.log"),
        ("took", f"{seconds:.0f} s"),
    ]  # fmt: skip
    print()
    for name, value in rows:
        print(f"  {name:<16} {value}")
    print()
    if s.ok:
        print("  ok: every authorization was decided exactly once")
        print(f"  next: ./sluice explain --archive {FOLDER}/archive AUTHORIZATION_ID")
    for check in s.failed:
        print(f"  FAILED: {check}")


if __name__ == "__main__":
    try:
        code = main()
    except SluiceError as error:
        sys.exit(f"demo: {error}")
    raise SystemExit(code)
