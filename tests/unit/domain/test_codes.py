"""Numbers that are stored never change their meaning: each table is pinned, and may only grow."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sluice.adapters.parquet.history import _PARTITIONS, HISTORY, LABELS
from sluice.adapters.redis.idempotency import ANSWERED, IN_PROGRESS
from sluice.domain.features import kernel, stateformat, states
from sluice.domain.features.stateformat import TABLES, Table, digest, note, why_not
from sluice.domain.records.authorization import Channel, ThreeDs
from sluice.domain.records.codes import CHANNEL_INDEX, CHANNELS_MAX, THREE_DS_INDEX, numbered
from sluice.domain.records.countries import CENTRES
from sluice.domain.records.currencies import EXPONENTS
from sluice.domain.records.entity import ENTITY_KINDS, mask_of
from sluice.domain.records.outcome import BY_SEVERITY, SEVERITY, Outcome

APPENDED: dict[str, list[tuple[int, str]]] = {
    "channel": [(5, "2aad93c66edd")],
    "country": [(250, "109e51f343fc")],
    "currency": [(156, "4ec5e0970e6f"), (169, "b46dfe72e4c8")],
    "source": [(3, "34289a0cb480")],
    "three_ds": [(4, "242991c4f6d2")],
}
"""Length and digest of each table as every version so far left it. After an entry was appended,
add a line with the new length and digest; never change one that stands here: stores hold them."""
ALL = {**TABLES, "three_ds": THREE_DS_INDEX}


def broken(table: Table, pins: Sequence[tuple[int, str]]) -> str:
    """What is wrong with a table, "" if nothing is."""
    for length, pinned in pins:
        if len(table) < length:
            return f"it has {len(table)} entries, it had {length}"
        if digest(table, length) != pinned:
            return f"its first {length} entries are others than they were"
    if len(table) != pins[-1][0]:
        return f"append ({len(table)}, {digest(table, len(table))!r}) to APPENDED"
    return ""


def test_every_table_has_its_pins() -> None:
    assert APPENDED.keys() == ALL.keys()
    assert all(pins == sorted(pins) for pins in APPENDED.values())


@pytest.mark.parametrize("name", ALL)
def test_a_table_is_what_it_was(name: str) -> None:
    assert broken(ALL[name], APPENDED[name]) == ""


@pytest.mark.parametrize("name", ALL)
def test_any_other_edit_of_a_table_is_found(name: str) -> None:
    names = list(ALL[name])
    step = 1 if name != "source" else states.PARTITIONS_MAX
    first = 0 if name == "source" else 1

    def again(given: list[str]) -> str:
        table = {one: first + step * i for i, one in enumerate(given)}
        return broken(table, APPENDED[name])

    assert again(names) == ""
    assert "are others" in again(["new", *names])
    assert "are others" in again([*names[:-1], "new", names[-1]])
    assert "entries, it had" in again(names[:-1])
    assert "are others" in again([names[1], names[0], *names[2:]])
    assert "are others" in again([*names[:-1], "renamed"])
    renumbered = {one: number + 1 for one, number in ALL[name].items()}
    assert "are others" in broken(renumbered, APPENDED[name])
    assert "to APPENDED" in again([*names, "new"])


def test_what_is_read_of_a_table_belongs_to_its_entries() -> None:
    assert list(TABLES["country"]) == list(CENTRES)
    assert list(TABLES["currency"]) == list(EXPONENTS)
    assert (EXPONENTS["EUR"], EXPONENTS["JPY"], EXPONENTS["KWD"]) == (2, 0, 3)
    assert set(CHANNEL_INDEX) == set(Channel)
    assert set(THREE_DS_INDEX) == set(ThreeDs)
    assert max(CHANNEL_INDEX.values()) <= CHANNELS_MAX
    with pytest.raises(ValueError, match="twice"):
        numbered(["a", "b", "a"])


def test_the_other_numbers_that_are_stored_are_what_they_were() -> None:
    """In versions, records of observations.v1, the archive and the store."""
    assert (states.DECISIONS, states.LABELS, states.BACKFILL) == (0, 1, 2)
    assert states.PARTITIONS_MAX == 4096
    assert (kernel.AUTHORIZATION, kernel.FRAUD, kernel.GENUINE) == (0, 1, 2)
    assert _PARTITIONS == {HISTORY: 0, LABELS: 1}
    assert (IN_PROGRESS, ANSWERED) == (b"\x01", b"\x02")


def test_numbers_that_no_record_holds_agree_with_each_other() -> None:
    """Severities, and bits of views: made and read within one process."""
    assert [SEVERITY[outcome] for outcome in BY_SEVERITY] == [0, 1, 2, 3]
    assert BY_SEVERITY == (Outcome.APPROVE, Outcome.CHALLENGE, Outcome.REVIEW, Outcome.DECLINE)
    assert ENTITY_KINDS == ("card", "terminal", "merchant", "device")
    assert [mask_of([kind]) for kind in ENTITY_KINDS] == [1, 2, 4, 8]


OLDER = {**TABLES, "currency": dict(list(TABLES["currency"].items())[:-1])}
NEWER = {**TABLES, "currency": {**TABLES["currency"], "XXX": len(TABLES["currency"]) + 1}}
SWAPPED = {**TABLES, "country": {**TABLES["country"], "AD": 2, "AE": 1}}
RENUMBERED = {**OLDER, "country": dict.fromkeys(TABLES["country"], 7)}


def test_states_are_read_if_their_tables_are_the_beginning_of_ours() -> None:
    assert why_not(note(TABLES)) == ""
    assert why_not(note(OLDER)) == ""
    assert why_not(note({name: {} for name in TABLES})) == ""


@pytest.mark.parametrize(
    ("held", "why", "fix"),
    [
        (note(NEWER), "its table of currency has 170 entries, ours has 169", "run that one, or"),
        (note(SWAPPED), "the 250 entries of its table of country are not ours", "run `sluice"),
        (note(RENUMBERED), "the 250 entries of its table of country are not ours", "run `sluice"),
        (note(TABLES, stateformat.LAYOUT + 1), "have layout 2, ours is 1", "run that one, or"),
        (note(TABLES, stateformat.LAYOUT - 1), "have another layout than ours, 1", "run `sluice"),
        (note({"country": TABLES["country"]}), "have another layout than ours", "run `sluice"),
        (note({**TABLES, "more": {"a": 1}}), "have another layout than ours", "run `sluice"),
        ("", "does not say what its states mean", "run `sluice"),
        ("1 country", "cannot be read", "run `sluice"),
        ("one country=3:aa", "cannot be read", "run `sluice"),
        ("1  country=3:aa", "cannot be read", "run `sluice"),
    ],
)
def test_any_other_states_are_not_and_it_says_why_and_what_to_do(
    held: str, why: str, fix: str
) -> None:
    said = why_not(held)
    assert why in said
    assert fix in said
    assert "sluice states rebuild" in said
