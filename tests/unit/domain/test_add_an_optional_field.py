"""An optional text field is one line: put into a copy of the source, everything else follows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RECORD = "src/sluice/domain/records/authorization.py"
BESIDE = "    three_ds: ThreeDs | None = None\n"
SEEN = """
import contextlib, io, json, tempfile
from datetime import date
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from sluice_simulator.config import Config
from sluice_simulator.world import World

from services.decider import openapi
from sluice import cli
from sluice.adapters.feast import finalise
from sluice.adapters.files.mapping import Mapper, Mapping
from sluice.adapters.files.past import map_past, read_past
from sluice.adapters.files.tables import Table
from sluice.adapters.kafka.consumer import Message
from sluice.adapters.parquet.archive import Archive, ParquetFiles
from sluice.adapters.parquet.columns import SCHEMAS
from sluice.application.decide import content_digest
from sluice.cli.contracts import schema
from sluice.cli.reference import PAGES
from sluice.domain.records.authorization import decode_authorization, encode
from sluice.errors import Rejected
from sluice.testing.factories import make_authorization
from sluice.testing.records import make_decision

folder = Path(tempfile.mkdtemp())


def code(value):
    body = msgspec.json.decode(encode(make_authorization())) | {"acquirer_id": value}
    try:
        return decode_authorization(json.dumps(body).encode()).acquirer_id
    except Rejected as error:
        assert "4111" not in str(error)
        return error.code


values = ["acq-1", "4111111111111111", "4111 1111 1111 1111", "4111-1111-1111-1111", "acq 1",
          "acqu\\u00e9reur", "acq-\\uff14", "", "x" * 65, 7]

raw = encode(make_decision(acquirer_id="acq-1"))
ParquetFiles(folder / "archive", {"decisions.v1": "decisions"}).write(
    ("decisions.v1", 0), [Message(raw, None, "decisions.v1", 0, 3, None, 1_780_000_000_000)])
page = io.StringIO()
with contextlib.redirect_stdout(page):
    assert cli.main(["explain", "--archive", str(folder / "archive"), "a-1"]) == 0

auth = make_authorization(acquirer_id="acq-1")
row = {**msgspec.structs.asdict(auth), "amount": "12.34"}
pq.write_table(pa.Table.from_pylist([row]), folder / "bank.parquet")
texts = {name: {"column": name} for name in row if name not in
         ("v", "event_at", "amount_minor", "amount", "customer_id", "device_id", "ip_prefix",
          "three_ds", "sca_exemption")}
(folder / "bank.yaml").write_text(json.dumps(texts | {
    "event_at": {"column": "event_at", "format": "epoch_us"},
    "amount": {"column": "amount", "unit": "major"}}))
past = map_past(folder / "bank.parquet", str(folder / "bank.yaml"), None, lambda bad: None)

day = next(iter(World(Config(cards=60), 1).days(date(2026, 5, 1), 1)))
archived = Archive(folder / "archive").read()
document = json.loads(openapi.document("m", 1))
print(json.dumps({
    "codes": {str(value): code(value) for value in values},
    "digest": content_digest(make_authorization()).hex(),
    "column": archived["acquirer_id"].to_pylist(),
    "record": archived["record"].to_pylist()[0] == raw,
    "history": "acquirer_id" in SCHEMAS["history"].names,
    "page": [line for line in page.getvalue().splitlines() if "acq-1" in line],
    "mapped": past.authorizations["acquirer_id"].to_pylist(),
    "read": read_past(folder / "bank.parquet", None).authorizations["acquirer_id"].to_pylist(),
    "simulated": day.authorizations()["acquirer_id"].null_count == len(day),
    "sent": {one.acquirer_id for one in day.structs()} == {None},
    "contracts": ['"acquirer_id"' in schema(n) for n in ("authorizations.v1", "decisions.v1")],
    "openapi": "acquirer_id" in document["components"]["schemas"]["Authorization"]["properties"],
    "reference": [line for line in PAGES["authorization.md"]().splitlines() if "acquirer" in line],
}))
"""


def run(folder: Path, line: str, code: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter over a copy of the source with one more line in the record."""
    ignored = shutil.ignore_patterns("__pycache__", ".venv")
    for part in ("src", "simulator/src", "services"):
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    record = folder / RECORD
    text = record.read_text()
    assert text.count(BESIDE) == 1
    record.write_text(text.replace(BESIDE, f"{BESIDE}    {line}\n"))
    path = os.pathsep.join(str(folder / part) for part in ("src", "simulator/src", ""))
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    done = run(tmp_path_factory.mktemp("copy"), "acquirer_id: Id | None = None", SEEN)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_an_entrypoint_checks_it_like_every_other(seen):
    assert seen["codes"] == {
        "acq-1": "acq-1",
        "4111111111111111": "card_number",
        "4111 1111 1111 1111": "card_number",
        "4111-1111-1111-1111": "card_number",
        "acq 1": "bad_format",
        "acquéreur": "bad_format",
        "acq-\uff14": "bad_format",
        "": "bad_format",
        "x" * 65: "bad_format",
        "7": "wrong_type",
    }


def test_a_message_without_it_keeps_its_digest(seen):
    assert seen["digest"] == "66e9c82345005fd7"  # as tests/contract/test_mixed_versions.py says


def test_the_archive_keeps_it_in_the_record_and_in_a_column(seen):
    assert seen["record"] is True
    assert seen["column"] == ["acq-1"]
    assert seen["history"] is True


def test_explain_shows_it(seen):
    assert [line.split() for line in seen["page"]] == [["acquirer_id", "acq-1"]]


def test_files_are_mapped_and_read_with_it_and_the_simulator_leaves_it_out(seen):
    assert seen["mapped"] == ["acq-1"]
    assert seen["read"] == ["acq-1"]
    assert seen["simulated"] is True
    assert seen["sent"] is True


def test_contracts_openapi_and_reference_have_it(seen):
    assert seen["contracts"] == [True, True]
    assert seen["openapi"] is True
    assert len(seen["reference"]) == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("note: str | None = None", "Authorization.note is a text without a kind"),
        ("score: float | None = None", "Authorization.score is of type <class 'float'>"),
        ("tries: int | None = None", "Authorization.tries is a number without bounds"),
        ("tags: list[Id] | None = None", "Authorization.tags is of type list"),
    ],
)
def test_a_field_that_nothing_would_check_stops_the_import_by_name(line, says, tmp_path):
    done = run(tmp_path, line, "import sluice.domain.records.authorization")
    assert done.returncode == 1
    assert f"AssertionError: {says}" in done.stderr


def test_a_number_says_what_is_to_be_decided_before_files_can_have_it(tmp_path):
    line = "tries: Annotated[int, Meta(ge=0, le=9)] | None = None"
    done = run(tmp_path, line, "import sluice.adapters.files.mapping")
    assert "AssertionError: Authorization.tries is no text, so a mapping cannot" in done.stderr
