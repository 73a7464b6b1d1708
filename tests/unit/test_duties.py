"""Every field, verb and test that the pages on duties and promises name exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sluice.domain.records.log_record import TYPES, AnyRecord
from tests.unit.test_documents import wrong_in

PAGES = {
    name: Path(f"docs/explanation/{name}.md").read_text()
    for name in ("duties", "what-the-log-promises")
}
TEST = re.compile(r"\[`(test_\w+)`\]\(\.\./\.\./(tests/[\w/]+\.py)\)")
_, COMPONENTS = msgspec.json.schema_components([AnyRecord])


def tables(page: str) -> list[list[str]]:
    """Cells of the rows below each head that names fields."""
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return [row for row in rows if row[0] != "asks for" and len(row) == 4]


def missing_field(kind: str, path: str) -> str | None:
    """What a record of this type lacks, of a field named from its body or from the record."""
    if kind != "sealed" and kind not in TYPES:
        return f"no type {kind}"
    if kind == "sealed":
        places = [COMPONENTS["Sealed"]["properties"]]
    else:
        record = COMPONENTS[TYPES[kind].__name__]["properties"]
        places = [follow(record["body"]), record]
    first, *rest = path.split(".")
    for place in places:
        if first in place:
            spec = place[first]
            for name in rest:
                inner = follow(spec)
                if name not in inner:
                    return f"{kind}: {path}"
                spec = inner[name]
            return None
    return f"{kind}: {path}"


def follow(spec: dict[str, Any]) -> dict[str, Any]:
    """Properties of the part that a field holds."""
    options = spec.get("anyOf", [spec])
    ref = next(one["$ref"] for one in options if "$ref" in one)
    return dict(COMPONENTS[ref.rpartition("/")[2]]["properties"])


def test_each_field_that_a_duty_names_is_one_of_its_record() -> None:
    named = 0
    for row in tables(PAGES["duties"]):
        for part in row[1].split("; "):
            kind, *fields = re.findall(r"`([\w.]+)`", part)
            assert fields, row
            assert not [m for m in (missing_field(kind, f) for f in fields) if m]
            named += len(fields)
    assert named > 80


def test_each_duty_has_a_verb_and_a_test() -> None:
    for row in tables(PAGES["duties"]):
        verbs = re.findall(r"`(sluice [^`]+)`", row[2])
        assert verbs, row[0]
        assert not {wrong_in(verb) for verb in verbs} - {None}
        assert TEST.search(row[3]), row[0]


@pytest.mark.parametrize("page", PAGES)
def test_each_test_that_a_page_names_is_in_its_file(page: str) -> None:
    found = TEST.findall(PAGES[page])
    assert len(found) == len(re.findall(r"`test_\w+`", PAGES[page])) > 10
    assert not [
        (name, file)
        for name, file in found
        if not re.search(rf"^(async )?def {name}\(", Path(file).read_text(), re.MULTILINE)
    ]


def test_each_law_says_what_is_not_done_for_it() -> None:
    sections = PAGES["duties"].split("\n## ")[1:]
    laws = [one for one in sections if "| asks for |" in one]
    assert len(laws) == 8
    assert not [one.splitlines()[0] for one in laws if "\nSluice does not: " not in one]


def test_the_checks_find_what_is_not_there() -> None:
    assert missing_field("decision", "sca.three_ds") is None
    assert missing_field("decision", "sca.four_ds") == "decision: sca.four_ds"
    assert missing_field("verdict", "x") == "no type verdict"
    assert missing_field("access", "subject_name") == "access: subject_name"
