"""Every console block of the documents is typed into a shell, against one stack.

A fence says what is in it. In a ``console`` block a line that begins with ``$ `` is a command, with
the lines that follow a backslash or an open quote; the others show what it prints. A document's
commands run in one shell, in order, in a copy of the tree whose ``make up`` is the tutorial's own.
What a reader has of his own (a CSV, a dead letter, a trained model) is made here.

- **Status**: 0.
- **Output**: each line shown must be found in what was printed, by its fixed words: those of
  letters and underscores alone. Numbers, ids, times, paths, and what stands in parentheses differ.
- **Substituted**: ports and placeholders (`_House.typed`), and lengths of SHORTER; nothing else.
- **Not run**: NOT_RUN, each with its reason. An entry that no document has any more fails, as does
  a fence that does not say what it holds.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer

from local.kafka.broker import ComposeNode, docker_answers, free_port
from sluice.adapters.onnx import Description
from sluice.adapters.redis.embedded import EmbeddedStore
from tests.support import tree
from tests.support.make import ROOT, Make
from tests.support.shapes import SHAPES

pytestmark = pytest.mark.slow

LISBON = ZoneInfo("Europe/Lisbon")
KINDS = {"console", "json", "mermaid", "python", "sh", "sql", "text", "yaml"}
NOW_US = int(time.time()) * 1_000_000
AGAIN_MAX_S, AGAIN_S = 180.0, 0.5

FOR_EVER = "a service, until it is stopped: `make up` starts it"
DOCKER = "needs Docker and a registry: `make test-image` builds and starts the image without"
TWICE = "would run the tests inside a test"
NOT_RUN = {
    "make demo": "a minute and a half; tests/e2e/test_demo.py runs it",
    "make test": TWICE,
    "make check": ".ci/run runs it",
    "make setup": "makes the environment that runs this test",
    "make test-models": "an environment of 4.8 GB",
    "make test-spark": "an environment of 1.4 GB",
    "spark/.venv/bin/sluice": "the same",
    "make train": "a quarter of an hour, and the same environment",
    "models/.venv/bin/sluice train": "the same; models/tests runs it",
    "make bench": "ten minutes, and an environment of its own",
    "benchmarks/.venv/bin/python": "the same",
    "docker build": DOCKER,
    "docker run": DOCKER,
    "kubectl": "needs a cluster",
    "helm": "the same",
    "make bench-cluster": "the same",
    "./sluice rollout": "the same",
    "./sluice report": "needs a log of yours: tests/integration/consistency/test_reports.py",
    "./sluice log grant ID --who bob --case DSAR": "the same",
    "./sluice log verify-proof CASE": "the same",
    "./sluice log override": "the same: tests/unit/cli/test_report.py",
    "terraform": "needs an account of AWS: tests/deploy/test_terraform.py",
    "make kind": "needs Docker",
    "python -m services.decider.main sync": FOR_EVER,
    "python -m services.decider.main stream": FOR_EVER,
    "python -m services.featurizer.main": FOR_EVER,
}
"""A command by how it begins: why it is not run."""
STARTED = "make up"
"""Run by the stack's fixture: its output is shown in the tutorial."""
AGAIN = dict.fromkeys(
    ("./sluice explain", "./sluice replay"), "the archiver writes within archiver.roll_s"
)
"""May fail until then."""
SHORTER = {"--days 30": "--days 1", "--duration 60": "--duration 2"}
WRONG_STATES = "the page shows a store with wrong states, this one has none"
OTHER_OUTPUT = {
    "1,204 records of decisions.v1, labels.v1": "only where the archive lags behind the topics",
    "848 differ": WRONG_STATES,
    "848  terminal_count_5m": WRONG_STATES,
    "sluice explain 01a19468": WRONG_STATES,
    "authorization  01a19468": "the page shows another authorization",
    "replayed       the same bits": "the same",
}
"""A line of a page, by how it begins: why this stack prints another."""
BEFORE = {
    "docs/how-to/build-a-training-set.md": "docs/how-to/feast.md",
    "docs/how-to/replay-a-decision.md": "docs/tutorial/first-decision.md",
    "README.md": "docs/tutorial/first-decision.md",
}
"""A page that begins where another one ends."""
PREPARED = {
    "docs/how-to/backfill-your-history.md": (
        "export SLUICE_STORE_URL=$other_store/0",
        "export SLUICE_ARCHIVER_ROOT=var/history/archive",
        "./sluice simulate history --out . --cards 200 --days 2 --start 2026-10-01",
    ),
    "docs/how-to/build-a-training-set.md": (
        "export SLUICE_ARCHIVER_ROOT=var/book/archive",
        "./sluice simulate history --out var/book --cards 150 --fraud-bp 400 --days 160 "
        "--start 2018-05-01",
        "./sluice backfill var/book/authorizations.parquet --labels var/book/labels.parquet "
        "--no-store",
    ),
    "docs/how-to/replay-a-decision.md": (
        "mkdir packs",
        "cp -r policies/default packs/",
        "cp -r policies/default policies/next",
        "cp -r models/releases/current models/releases/candidate",
    ),
}
"""What a page takes for granted, typed before it."""
DEAD_LETTERS = "docs/runbooks/dead-letters.md"
TWENTY_YEARS_S = 20 * 365 * 86_400
FIRST = {"./sluice backfill bank.csv": "export SLUICE_ARCHIVER_ROOT=var/bank/archive"}
"""Typed before a command: an archive holds one history, and the page shows two."""


@dataclass
class Command:
    """One command of a console block, and the lines shown below it."""

    text: str
    shown: list[str] = field(default_factory=list)


@dataclass
class Fence:
    document: str
    line: int
    kind: str
    lines: list[str]

    def commands(self) -> list[Command]:
        found: list[Command] = []
        for line in self.lines:
            if line.startswith("$ "):
                found.append(Command(line[2:]))
            elif found and not found[-1].shown and not _whole(found[-1].text):
                found[-1].text += "\n" + line
            else:
                assert found, f"{self.document}:{self.line}: output without a command"
                found[-1].shown.append(line)
        return found


def _whole(text: str) -> bool:
    if text.endswith("\\"):
        return False
    return text.replace(r"\'", "").count("'") % 2 == 0


def _fences() -> list[Fence]:
    """Of every page but the cards of releases."""
    found = []
    for name in tree.files(kinds={".md"}):
        lines = (ROOT / name).read_text().splitlines()
        if name.startswith("models/releases/"):
            continue
        inside: Fence | None = None
        indent = 0
        for number, line in enumerate(lines, 1):
            marked = re.match(r"( *)```(\w*)", line)
            if marked and inside is None:
                indent = len(marked[1])
                inside = Fence(name, number, marked[2], [])
            elif marked and inside is not None:
                found.append(inside)
                inside = None
            elif inside is not None:
                inside.lines.append(line[indent:])
    return found


FENCES = _fences()
DOCUMENTS = list(dict.fromkeys(f.document for f in FENCES if f.kind == "console"))


def _commands(document: str) -> list[Command]:
    of = [f for f in FENCES if f.document == document and f.kind == "console"]
    return [command for fence in of for command in fence.commands()]


def _not_run(command: str) -> str | None:
    return next((start for start in NOT_RUN if command.startswith(start)), None)


class _House:
    """A copy of the tree, its stack, and what the readers of the documents have."""

    def __init__(self, folder: Path, other_store: str) -> None:
        self.folder = folder / "sluice"
        self.folder.mkdir()
        self.ran: set[str] = set()
        # Public tables are years old, and the page on publishing says to raise this for a replay.
        soon = {
            "SLUICE_ARCHIVER_ROLL_S": "1",
            "SLUICE_DECIDER_MAX_EVENT_AGE_S": str(TWENTY_YEARS_S),
        }
        self.make = Make(folder, tree=self.folder, data=Path("var"), environment=soon)
        self._other_store = other_store
        self.other_kafka = free_port()
        self._lay_out()
        self._leave_files()

    def _lay_out(self) -> None:
        copied = ("contracts", "docs", "feature_repo", "models", "policies")
        for path in ROOT.iterdir():
            if path.name in ("var", ".git"):
                continue
            if path.name in copied:
                leave = shutil.ignore_patterns(".venv", "__pycache__")
                shutil.copytree(path, self.folder / path.name, symlinks=True, ignore=leave)
            else:
                (self.folder / path.name).symlink_to(path)
        configured = self.folder / "feature_repo" / "feature_store.yaml"
        configured.write_text(configured.read_text().replace("6379", str(self.make.store)))

    def _leave_files(self) -> None:
        """What a reader brings: named YAML of the pages, a bank's tables, a trained model."""
        for fence in FENCES:
            named = re.match(r"# ([\w-]+\.yaml)$", fence.lines[0]) if fence.lines else None
            if named:
                (self.folder / named[1]).write_text("\n".join(fence.lines))
        _histories(self.folder)
        (self.folder / "authorization.json").write_text(json.dumps(_authorization("from-a-file")))
        _trained_model(self.folder)

    @property
    def environment(self) -> dict[str, str]:
        ports = f"KAFKA_PORT={self.other_kafka}"
        return {
            **{k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "ARGS")},
            "HOME": str(self.folder),
            "M2_REPO": os.environ.get("M2_REPO", str(Path.home() / ".m2" / "repository")),
            "SLUICE_KAFKA_BOOTSTRAP": f"localhost:{self.make.kafka}",
            "SLUICE_STORE_URL": f"redis://127.0.0.1:{self.make.store}",
            "SLUICE_ARCHIVER_ROOT": "var/local/archive",
            "SLUICE_FEAST_STORE": f"127.0.0.1:{self.make.store}",
            "SLUICE_FEAST_REGISTRY": f"sqlite:///{self.folder}/registry.db",
            "MAKEFLAGS": f"-- {ports} DATA=var/other",
        }

    def typed(self, command: str, document: str) -> str:
        """What a reader would type whose ports and ids are ours."""
        kafka = self.other_kafka if document.endswith("run-kafka.md") else self.make.kafka
        for said, ours in {
            ":9092": f":{kafka}",
            ":8080": f":{self.make.http}",
            "AUTHORIZATION_ID": "my-first",
            "var/demo/archive": "var/local/archive",
            "2026-10-31": f"{datetime.now(UTC) - timedelta(days=2):%Y-%m-%d}",
            **SHORTER,
        }.items():
            command = command.replace(said, ours)
        return command

    def read(self, document: str) -> None:
        """Types all commands of a page, once."""
        if document in self.ran:
            return
        if before := BEFORE.get(document):
            self.read(before)
        with _Shell(self.folder, self.environment) as shell:
            shell.run(f"other_store={self._other_store}")
            if document == DEAD_LETTERS:  # other pages leave many, and a list shows the newest
                _leave_dead_letters(self.make)
                shell.run(
                    "until ./sluice dead-letters list --code unknown_field | grep loyalty_id; "
                    "do sleep 1; done"
                )
            for line in PREPARED.get(document, ()):
                shell.run(line)
            for command in _commands(document):
                if _not_run(command.text):
                    continue
                for start, line in FIRST.items():
                    if command.text.startswith(start):
                        shell.run(line)
                if command.text == STARTED:
                    printed = self.make.reported()
                else:
                    printed = shell.run(self.typed(command.text, document))
                _compare(document, command, printed)
        self.ran.add(document)


class _Shell:
    """One bash: a folder changed or a variable exported stays so for the next command."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._script = folder / ".typed.sh"
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._type("set -o pipefail")

    def run(self, command: str) -> str:
        """What it printed. Fails with it where the status is not 0."""
        until = time.monotonic() + AGAIN_MAX_S
        while True:
            status, printed = self._type(command)
            if status == 0:
                return printed
            again = any(command.startswith(start) for start in AGAIN)
            assert again, f"$ {command}\n{printed}\nexit status {status}"
            assert time.monotonic() < until, f"$ {command}\n{printed}\nexit status {status}"
            time.sleep(AGAIN_S)

    def _type(self, command: str) -> tuple[int, str]:
        assert self._bash.stdin
        assert self._bash.stdout
        self._script.write_text(command + "\n")
        end = "= the end of this command ="
        self._bash.stdin.write(
            f"source {self._script} </dev/null\nstatus=$?\necho; echo '{end}' $status\n"
        )
        self._bash.stdin.flush()
        printed: list[str] = []
        for line in self._bash.stdout:
            if line.startswith(end):
                return int(line.removeprefix(end)), "".join(printed)
            printed.append(line)
        raise AssertionError(f"the shell ended in: {command}\n{''.join(printed)}")

    def __enter__(self) -> _Shell:
        return self

    def __exit__(self, *_: object) -> None:
        self._bash.kill()
        self._bash.communicate()


def _fixed_words(line: str) -> list[str]:
    line = re.sub(r"\(.*?\)", " ", line)
    stripped = (word.strip(".,;:`'\"") for word in line.split())
    return [word for word in stripped if re.fullmatch(r"[A-Za-z][A-Za-z_]+", word)]


def _compare(document: str, command: Command, printed: str) -> None:
    lines = printed.splitlines()
    for shown in command.shown:
        if any(shown.strip().startswith(start) for start in OTHER_OUTPUT):
            continue
        words = _fixed_words(shown)
        found = any(all(word in line for word in words) for line in lines)
        assert found, f"{document} shows after `{command.text}`:\n{shown}\nprinted was:\n{printed}"


def _authorization(identifier: str, **changes: object) -> dict[str, object]:
    return {
        "v": 1,
        "authorization_id": identifier,
        "event_at": int(time.time()) * 1_000_000,
        "card_token": "card-9",
        "merchant_id": "grocer",
        "terminal_id": "grocer-till-1",
        "mcc": "5411",
        "channel": "pos",
        "amount_minor": 1234,
        "currency": "EUR",
        "merchant_country": "FR",
        "card_country": "FR",
        "region": "eea",
        "tenant": "demo",
        **changes,
    }


def _bank_table(path: Path, n: int, first: datetime) -> None:
    """n rows, one a second, whose columns are those of the page's mapping."""
    names = "auth_ref day time customer plastic shop till mcc entry_mode amount ccy country device"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        out = csv.writer(file, delimiter=";")
        out.writerow([*names.split(), "fraud_flag"])
        for i in range(n):
            at = (first + timedelta(seconds=i)).astimezone(LISBON)
            amount = f"{1 + i % 9}.{i % 1000:03d},50" if i % 50 == 0 else f"{5 + i % 90},50"
            row = [f"{path.stem}-{i}", f"{at:%d/%m/%Y}", f"{at:%H:%M:%S}", i % 50, 1]
            row += [f"shop-{i % 7}", i % 3, 742 if i % 9 == 0 else 5411, "05", amount, "EUR", "PT"]
            out.writerow([*row, "#N/A" if i % 2 else "", "Y" if i % 100 == 0 else "N"])


def _database_export(path: Path, n: int, first: datetime) -> None:
    """As psql's \\copy and MySQL write tables with card numbers, names and rows of other kinds."""
    head = "id,at,pan,holder,merchant_name,terminal,mcc,present,amount,country,kind"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(head.split(","))
        for i in range(n):
            at = f"{first + timedelta(seconds=i):%Y-%m-%d %H:%M:%S}"
            number = (4111111111111111, 5555555555554444, 378282246310005)[i % 3]
            holder = ("\\N", "NULL", "unknown", "Anna Café")[i % 4]
            shop = ("Rippin, Kub and Mann", "ABC*DEF 7")[i % 2]
            kind = "REFUND" if i % 10 == 9 else "PURCHASE"
            row = [f"db-{i}", at, number, holder, shop, i % 3, 742, "tf"[i % 2], 1000 + i, "FR"]
            out.writerow([*row, kind])


def _frame(n: int, first: datetime) -> pa.Table:
    """As pandas leaves columns in which something is missing."""
    return pa.table(
        {
            "id": list(range(n)),
            "at": [first.replace(tzinfo=None) + timedelta(seconds=i) for i in range(n)],
            "customer": pa.array([float(70_000 + i % 5) for i in range(n)]),
            "shop": [i % 7 for i in range(n)],
            "mcc": pa.array([742.0 if i % 9 == 0 else 5411.0 for i in range(n)]),
            "amount": pa.array([round(1 + i / 100, 2) for i in range(n)]),
            "device": pa.array([None if i % 2 else float(i) for i in range(n)]),
        }
    )


def _histories(folder: Path) -> None:
    """The tables that the page on publishing them brings."""
    first = (datetime.now(UTC) - timedelta(hours=2)).replace(microsecond=0)
    _bank_table(folder / "history.csv", 1_200, first)
    _bank_table(folder / "bank.csv", 40, datetime(2026, 10, 15, 23, 59, 40, tzinfo=UTC))
    _database_export(folder / "export.csv", 60, first)
    frame = _frame(60, first)
    pq.write_table(frame, folder / "history.parquet")
    parts = folder / "history.parts"
    parts.mkdir()
    (parts / "_SUCCESS").touch()
    for number in range(2):
        pq.write_table(frame.slice(30 * number, 30), parts / f"part-{number:05d}.snappy.parquet")
    for shape in SHAPES:
        shape.write(folder)


def _trained_model(folder: Path) -> None:
    """The committed model as if it were the reader's, with the description that packing needs."""
    current = folder / "models" / "releases" / "current"
    own = folder / "models" / "releases" / "NAME"
    own.mkdir()
    manifest = msgspec.json.decode((current / "manifest.json").read_bytes())
    for name in manifest["files"]:
        shutil.copy(current / name, own / name)
    kept = {name: manifest[name] for name in Description.__struct_fields__ if name in manifest}
    kept["warm_up"] = [row["features"] for row in manifest["warm_up"]]
    (folder / "about.yaml").write_bytes(msgspec.yaml.encode(kept))


def _leave_dead_letters(make: Make) -> None:
    """One that a newer sender's field makes, one of an old event, one of a message sent twice."""
    producer = Producer({"bootstrap.servers": f"localhost:{make.kafka}"})
    for sent in (
        _authorization("with-a-field", loyalty_id="gold"),
        _authorization("old", event_at=int(time.time() - 2 * TWENTY_YEARS_S) * 1_000_000),
        *[_authorization("twice", event_at=NOW_US)] * 2,
    ):
        producer.produce("authorizations.v1", json.dumps(sent), str(sent["card_token"]))
    assert producer.flush(AGAIN_MAX_S) == 0


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_House]:
    # Else `make up` in the copy would install the copy into the environment that both share.
    subprocess.run(["make", ".venv/.services"], cwd=ROOT, check=True, capture_output=True)
    folder = tmp_path_factory.mktemp("documents")
    with EmbeddedStore(directory=folder / "other-store") as other:
        built = _House(folder, other.url)
        try:
            up = built.make.up()
            yield built
            built.make("down")
            assert up.wait(AGAIN_MAX_S) == 0
        finally:
            built.make("down")
            with _Shell(built.folder, built.environment) as shell:
                shell.run("make kafka-stop")
            if docker_answers():
                for port in (built.make.kafka, built.other_kafka):
                    ComposeNode(port).remove()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_page_says_to_type_works_and_prints_what_it_shows(
    house: _House, document: str
) -> None:
    pages = {document, BEFORE.get(document, document)}
    if shutil.which("curl") is None and any(
        re.search(r"\bcurl ", command.text) for page in pages for command in _commands(page)
    ):
        pytest.skip("curl is not there: apt-get install curl")
    house.read(document)


def test_every_fence_says_what_it_holds() -> None:
    assert not [f"{f.document}:{f.line}: {f.kind}" for f in FENCES if f.kind not in KINDS]


@pytest.mark.parametrize("fence", [f for f in FENCES if f.kind == "sh"], ids=lambda f: f.document)
def test_a_shell_script_can_be_parsed(fence: Fence) -> None:
    text = "\n".join(fence.lines)
    parsed = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert parsed.returncode == 0, f"{fence.document}:{fence.line}: {parsed.stderr}"


def test_what_is_treated_apart_is_still_there() -> None:
    texts = [command.text for document in DOCUMENTS for command in _commands(document)]
    apart = [*NOT_RUN, STARTED, *AGAIN, *FIRST]
    assert not [start for start in apart if not any(text.startswith(start) for text in texts)]
    assert not [length for length in SHORTER if not any(length in text for text in texts)]
    shown = [line.strip() for d in DOCUMENTS for command in _commands(d) for line in command.shown]
    assert not [start for start in OTHER_OUTPUT if not any(s.startswith(start) for s in shown)]
    assert not {*BEFORE, *BEFORE.values(), *PREPARED} - set(DOCUMENTS)
