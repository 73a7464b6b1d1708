import asyncio
import contextlib
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sluice_simulator.config import Config
from sluice_simulator.stream import Streamer, StreamOptions, Tally, at_sync_api, run
from sluice_simulator.world import World

from sluice.domain.records.authorization import decode_authorization

START = date(2026, 10, 1)


class Recorder:
    """A producer that keeps what it was given; fails deliveries where asked."""

    def __init__(self, *, full: int = 0, fails: Callable[[int], bool] = lambda n: False) -> None:
        self.sent: list[tuple[str, bytes, bytes]] = []
        self._full, self._fails = full, fails
        self.flushed = False

    def produce(self, topic, value, key, on_delivery=None) -> None:
        if self._full:
            self._full -= 1
            raise BufferError("queue full")
        self.sent.append((topic, key, value))
        if on_delivery:
            on_delivery("broken" if self._fails(len(self.sent)) else None, None)

    def poll(self, timeout: float) -> int:
        return 0

    def flush(self, timeout: float) -> int:
        self.flushed = True
        return 0


@pytest.fixture(scope="module")
def world() -> World:
    return World(Config(cards=600, fraud_bp=300), seed=5)


def values(recorder: Recorder, topic: str = "authorizations.v1") -> list[bytes]:
    return [value for name, _, value in recorder.sent if name == topic]


def test_the_stream_is_the_worlds_own_traffic_keyed_by_card(world: World) -> None:
    recorder = Recorder()
    tally = run(Streamer(world, recorder, StreamOptions(START, 0.5, rate=2000)))
    expected = world.history(START, 2).structs()[:1000]
    assert [decode_authorization(v) for v in values(recorder)] == expected
    assert [k for _, k, _ in recorder.sent] == [a.card_token.encode() for a in expected]
    assert (tally.sent, tally.delivered, tally.errors) == (1000, 1000, {})
    assert recorder.flushed


def test_a_stream_goes_on_where_the_history_ended(world: World) -> None:
    recorder = Recorder()
    cut = START + timedelta(days=3)
    run(Streamer(World(world.config, world.seed), recorder, StreamOptions(cut, 0.1, rate=2000)))
    whole = world.history(START, 4)
    history = world.history(START, 3)
    assert [decode_authorization(v) for v in values(recorder)] == whole.structs()[
        len(history) : len(history) + 200
    ]


def test_with_a_speed_the_rate_follows_simulated_time(world: World) -> None:
    recorder = Recorder()
    tally = run(Streamer(world, recorder, StreamOptions(START, 0.5, speed=2 * 86_400)))
    assert tally.sent == len(world.day(START))


def test_labels_leave_when_they_become_known(world: World) -> None:
    recorder = Recorder()
    since = START - timedelta(days=40)
    rate = 4000
    run(Streamer(world, recorder, StreamOptions(START, 1.0, rate=rate, labels_since=since)))
    import msgspec

    from sluice.domain.records.label import Label

    now, reported = 0, []
    for topic, key, value in recorder.sent:
        if topic == "authorizations.v1":
            now = decode_authorization(value).event_at
            assert all(label.known_at <= now for label in reported)
        else:
            label = msgspec.json.decode(value, type=Label)
            assert key == label.authorization_id.encode()
            assert label.known_at > now
            reported.append(label)
    batch = world.history(since, 50)
    end = now
    first = world.day(START).rows["event_us"][0]
    expected = {
        label.authorization_id
        for label in batch.label_structs()
        if first // 86_400_000_000 * 86_400_000_000 <= label.known_at <= end
    }
    assert {label.authorization_id for label in reported} == expected
    assert len(reported) > 20


def test_truth_goes_to_a_file_and_only_for_what_was_sent(world: World, tmp_path: Path) -> None:
    recorder, truth = Recorder(), tmp_path / "deep" / "truth.parquet"
    run(Streamer(world, recorder, StreamOptions(START, 0.3, rate=3000), truth=truth))
    table = pq.read_table(truth)
    sent = [decode_authorization(v).authorization_id for v in values(recorder)]
    assert table["authorization_id"].to_pylist() == sent
    assert not any(b"fraud" in v for v in values(recorder))


def test_failed_deliveries_are_counted_and_the_rest_goes_on(world: World) -> None:
    recorder = Recorder(fails=lambda n: n % 10 == 0)
    tally = run(Streamer(world, recorder, StreamOptions(START, 0.1, rate=1000)))
    assert tally.errors == {"kafka broken": 10}
    assert (tally.delivered, tally.summary()["ok"]) == (90, False)


def test_a_full_local_queue_is_waited_for(world: World) -> None:
    tally = run(Streamer(world, Recorder(full=3), StreamOptions(START, 0.1, rate=500)))
    assert (tally.sent, tally.errors) == (50, {})


def test_stop_ends_early_and_flushes(world: World, tmp_path: Path) -> None:
    recorder = Recorder()
    streamer = Streamer(
        world, recorder, StreamOptions(START, 600, rate=2000), truth=tmp_path / "truth.parquet"
    )
    recorder_produce = recorder.produce

    def produce(*args, **kwargs) -> None:
        recorder_produce(*args, **kwargs)
        if len(recorder.sent) == 100:
            threading.Thread(target=streamer.stop).start()

    recorder.produce = produce
    tally = run(streamer)
    assert 100 <= tally.sent < 100_000
    assert recorder.flushed
    assert len(pq.read_table(tmp_path / "truth.parquet")) == tally.sent


def test_trouble_in_the_maker_is_raised_not_swallowed(world: World) -> None:
    class Broken(World):
        def day(self, day):
            raise ValueError("no such day")

    with pytest.raises(ValueError, match="no such day"):
        run(Streamer(Broken(world.config, 1), Recorder(), StreamOptions(START, 1, rate=10)))


def test_the_share_of_the_sync_api_is_a_function_of_the_id(world: World) -> None:
    ids = world.day(START).truth()["authorization_id"].to_pylist()
    quarter = {i for i in ids if at_sync_api(i, 0.25)}
    assert 0.15 < len(quarter) / len(ids) < 0.35
    assert quarter <= {i for i in ids if at_sync_api(i, 0.5)}


@contextlib.asynccontextmanager
async def entrypoint(script: Callable[[int], Any]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A small HTTP server; script: number of the request to the raw answer, b"" hangs up."""
    bodies: list[bytes] = []

    async def serve(reader, writer) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"POST /v1/authorizations HTTP/1.1\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                bodies.append(await reader.readexactly(length))
                answer = script(len(bodies))
                if inspect.isawaitable(answer):
                    answer = await answer
                if not answer:
                    break
                writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", bodies
    finally:
        server.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
BUSY = b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\ncontent-length: 0\r\n\r\n"
CONFLICT = b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\n{}"


async def through(world: World, script: Callable[[int], Any]) -> tuple[Tally, Recorder, list]:
    recorder = Recorder()
    async with entrypoint(script) as (url, bodies):
        plan = StreamOptions(START, 0.2, rate=500, http_share=0.5)
        tally = await Streamer(world, recorder, plan, http=url).run()
    return tally, recorder, bodies


async def test_each_authorization_takes_one_entrypoint(world: World) -> None:
    tally, recorder, bodies = await through(world, lambda n: OK)
    by_kafka = {decode_authorization(v).authorization_id for v in values(recorder)}
    by_http = {decode_authorization(b).authorization_id for b in bodies}
    assert not by_kafka & by_http
    assert len(by_kafka) + len(by_http) == tally.sent == 100
    assert tally.answered == tally.http == len(bodies)
    assert len(tally.latencies_us) == tally.answered
    assert tally.errors == {}


async def test_busy_and_broken_entrypoints_are_tried_again_with_the_same_id(world: World) -> None:
    trouble = {1: BUSY, 2: BUSY, 7: b"", 9: b""}
    tally, _, bodies = await through(world, lambda n: trouble.get(n, OK))
    assert tally.answered == tally.http
    assert tally.retries >= 4
    assert len(set(bodies)) == tally.http
    assert tally.errors == {}


async def test_a_refusal_is_an_error_and_not_tried_again(world: World) -> None:
    tally, _, bodies = await through(world, lambda n: CONFLICT if n == 3 else OK)
    assert tally.errors == {"http 409": 1}
    assert tally.retries == 0
    assert len(bodies) == tally.http


async def test_an_answer_without_a_length_is_an_unreachable_entrypoint(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluice_simulator.stream.PATIENCE_S", 0.2)
    tally, _, _ = await through(world, lambda n: b"HTTP/1.1 200 OK\r\n\r\n{}")
    assert tally.answered == 0
    assert tally.errors == {"http unreachable": tally.http}


async def test_an_entrypoint_that_is_slow_gets_no_relief(world: World) -> None:
    """The first answer waits for the 20th request: a closed loop would never get there."""
    crowd = asyncio.Event()

    async def answer(n: int) -> bytes:
        if n == 20:
            crowd.set()
        await crowd.wait()
        return OK

    tally, _, _ = await through(world, answer)
    assert tally.answered == tally.http >= 20
    assert tally.retries == 0


def test_percentiles_are_answers_that_occurred() -> None:
    tally = Tally(latencies_us=[1, 2, 3, 1000])
    assert tally.percentile_us(50) == 3
    assert tally.percentile_us(99) == 1000
    assert Tally().percentile_us(99) is None


def test_a_plan_needs_one_pace() -> None:
    with pytest.raises(ValueError, match="rate or a speed"):
        StreamOptions(START, 1)
    with pytest.raises(ValueError, match="address"):
        Streamer(
            World(Config(cards=100), 1), Recorder(), StreamOptions(START, 1, rate=1, http_share=0.5)
        )
