"""An acquirer at a steady rate, in a process of its own: `python -m tests.cluster.load URL NAME`.

Open loop: a request has its moment, whatever became of those before. Each is asked again by its id
until it is answered. Connections are renewed every RENEW_S, as callers behind a balancer do, so
that pods which come and go get their share. Ends on SIGTERM, when all it began is answered, and
prints what came of it as one line of JSON; the answers lie in FILE, one line each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sluice_simulator.sync_client import SyncClient, SyncClientError

from sluice.domain.records.authorization import Authorization, encode
from tests.support.traffic import authorizations

RENEW_S = 2.0
CALL_MAX_S = 10.0
RETRY_S, RETRY_MAX_S = 0.05, 1.0
ANSWER_MAX_S = 60.0
"""An id whose process was killed while it decided is busy for PENDING_TTL_S, 30 s."""
END_MAX_S = 180.0
ROOT = Path(__file__).parents[2]


@dataclass
class Outcome:
    """failed: attempts without a 200, by what came instead. given_up: ids without an answer.
    late_ms: from a request's moment to its answer, retries included."""

    sent: int = 0
    heard: dict[str, bytes] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)
    given_up: list[str] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)

    def summary(self, seconds: float) -> dict[str, Any]:
        ms = np.array(self.late_ms or [0.0])
        return {
            "sent": self.sent,
            "heard": len(self.heard),
            "failed": dict(self.failed),
            "given_up": self.given_up,
            "rate": self.sent / seconds,
            "p50_ms": float(np.percentile(ms, 50)),
            "p99_ms": float(np.percentile(ms, 99)),
            "max_ms": float(ms.max()),
        }


class Acquirer:
    """url: http://HOST:PORT. Ids are name-0, name-1, ..."""

    def __init__(self, url: str, name: str, rate: float) -> None:
        self._url, self._name, self._rate = url, name, rate
        self._client = SyncClient(url)
        self._asked: set[asyncio.Task[None]] = set()
        self.outcome = Outcome()

    async def run(self, stop: asyncio.Event) -> float:
        """Until stop. Returns how many seconds it sent."""
        began = renewed = time.perf_counter()
        for auth in authorizations(self._name, seed=7, cards=200):
            due = began + self.outcome.sent / self._rate
            while (now := time.perf_counter()) < due:
                await asyncio.sleep(due - now)
            if stop.is_set():
                break
            if now - renewed > RENEW_S:
                asyncio.get_running_loop().call_later(CALL_MAX_S, self._client.close)
                self._client, renewed = SyncClient(self._url), now
            self.outcome.sent += 1
            task = asyncio.create_task(self._until_answered(auth, due))
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)
        seconds = time.perf_counter() - began
        await asyncio.gather(*self._asked)
        return seconds

    async def _until_answered(self, auth: Authorization, due: float) -> None:
        body, key = encode(auth), auth.authorization_id
        wait = RETRY_S
        while time.perf_counter() - due < ANSWER_MAX_S:
            try:
                response = await self._client.post(body, CALL_MAX_S)
            except SyncClientError as error:
                self.outcome.failed[str(error)] += 1
            else:
                if response.status == 200:
                    self.outcome.heard[key] = response.body
                    self.outcome.late_ms.append((time.perf_counter() - due) * 1000)
                    return
                self.outcome.failed[f"{response.status} {_code(response.body)}"] += 1
            await asyncio.sleep(wait)
            wait = min(2 * wait, RETRY_MAX_S)
        self.outcome.given_up.append(key)


def _code(body: bytes) -> str:
    """Of a problem; what is none comes from no process of ours."""
    try:
        return str(json.loads(body)["code"])
    except (ValueError, KeyError, TypeError):
        return "without a code"


@dataclass
class Load:
    """One that runs beside a test; its outcome is known after the `with`."""

    summary: dict[str, Any] = field(default_factory=dict)
    heard: dict[str, bytes] = field(default_factory=dict)

    @property
    def failed(self) -> dict[str, int]:
        """Attempts without a 200, by what came instead."""
        found: dict[str, int] = self.summary["failed"]
        return found


@contextmanager
def load(url: str, name: str, rate: float, folder: Path) -> Iterator[Load]:
    """Requests at url until the end of the `with`. Ends with us, however we end."""
    answers = folder / f"{name}.answers"
    words = [sys.executable, "-m", "tests.cluster.load", url, name, str(answers)]
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *words, "--rate", str(rate)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    made = Load()
    try:
        yield made
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=END_MAX_S)
    finally:
        process.kill()
        process.wait()
    made.summary.update(json.loads(said))
    for line in answers.read_bytes().splitlines():
        key, _, body = line.partition(b" ")
        made.heard[key.decode()] = body


async def _main(args: argparse.Namespace) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    acquirer = Acquirer(args.url, args.name, args.rate)
    seconds = await acquirer.run(stop)
    heard = acquirer.outcome.heard
    args.file.write_bytes(b"".join(b"%s %s\n" % (k.encode(), v) for k, v in heard.items()))
    print(json.dumps(acquirer.outcome.summary(seconds)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("name", help="of this acquirer: the beginning of its ids")
    parser.add_argument("file", type=Path)
    parser.add_argument("--rate", type=float, default=500, help="requests a second")
    asyncio.run(_main(parser.parse_args()))
