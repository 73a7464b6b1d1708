"""A field that no rule covers stops the import, and its name is said."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from sluice.domain.records.authorization import Authorization, Id, Received
from sluice.domain.records.label import Label, check_label, label_of
from sluice.domain.records.texts import Kind, checker, kinds_of, not_searched, text
from sluice.errors import Rejected
from sluice.testing.factories import make_authorization

CARD_NUMBER = "4111111111111111"


class Colour(StrEnum):
    RED = "red"


def record(kind: Any, **default: Any) -> type[msgspec.Struct]:
    fields = [("colour", kind, default["default"])] if default else [("colour", kind)]
    return msgspec.defstruct("Paint", fields, kw_only=True)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (str, "text without a kind"),
        (str | None, "text without a kind"),
        (Annotated[str, Meta(max_length=9)], "text without a kind"),
        (int, "number without bounds"),
        (Annotated[int, Meta(ge=0)], "number without bounds"),
        (Annotated[int, Meta(ge=0, le=10**15)], "as long as a card's"),
        (float, "no rule covers"),
        (bytes, "no rule covers"),
        (list[str], "no rule covers"),
        (dict[str, str], "no rule covers"),
        (Authorization, "no rule covers"),
        (Id | int, "no rule covers"),
    ],
)
def test_a_field_that_no_rule_covers_is_refused_by_name(kind: Any, says: str) -> None:
    with pytest.raises(AssertionError, match=rf"Paint\.colour .*{says}"):
        checker(record(kind), fix="")


@pytest.mark.parametrize(
    "kind",
    [
        Id,
        Id | None,
        Colour,
        Literal["red"],
        bool,
        Annotated[int, Meta(ge=0, le=10**11)],
        Annotated[int, Meta(ge=0, le=10**15, extra=not_searched("a time"))],
    ],
)
def test_a_field_that_a_rule_covers_is_taken(kind: Any) -> None:
    checker(record(kind), fix="")


def test_an_optional_text_is_checked_where_it_is_there() -> None:
    paint = record(Id | None, default=None)
    check = checker(paint, fix="")
    check(paint())
    check(paint(colour="red"))
    for value, code in ((CARD_NUMBER, "card_number"), ("dark red", "bad_format")):
        with pytest.raises(Rejected) as caught:
            check(paint(colour=value))
        assert caught.value.code == code


def test_a_text_of_a_shape_of_its_own_is_checked_and_searched() -> None:
    shaped = Annotated[str, text(Kind("[0-9a-z ]{1,30}"), 1, 30)]
    for kind in (shaped, shaped | None):
        paint = record(kind)
        check = checker(paint, fix="")
        check(paint(colour="dark red 7"))
        for value, code in (("4111 1111 1111 1111", "card_number"), ("Red", "bad_format")):
            with pytest.raises(Rejected) as caught:
                check(paint(colour=value))
            assert caught.value.code == code


def test_who_does_not_want_a_text_searched_says_why_and_its_shape_counts_still() -> None:
    paint = record(Annotated[str, text(Kind("[!-~]{1,30}", not_searched="a hash"), 1, 30)])
    check = checker(paint, fix="")
    check(paint(colour=CARD_NUMBER))
    with pytest.raises(Rejected, match="regex"):
        check(paint(colour="dark red"))


def test_no_text_of_an_authorization_or_label_goes_unsearched() -> None:
    for kinds in (kinds_of(Authorization), kinds_of(Label), kinds_of(Received)):
        assert kinds
        assert not any(kind.not_searched for kind in kinds.values())


def test_only_so_many_good_values_are_remembered() -> None:
    kind = Kind("[a-z]{1,3}", few_max=2)
    paint = record(Annotated[str, text(kind, 1, 3)])
    check = checker(paint, fix="")
    for value in ("a", "b", "c", "c"):
        check(paint(colour=value))
    assert kind.good == {"a", "b"}
    with pytest.raises(Rejected):
        check(paint(colour="C"))


def test_a_label_names_what_its_authorization_does_and_holds_no_card_number() -> None:
    auth = make_authorization(device_id="d-1")
    label = label_of(auth, known_at=7, is_fraud=True, kind="alert", source="bank")
    for name in set(Label.__struct_fields__) & set(Authorization.__struct_fields__):
        assert getattr(label, name) == getattr(auth, name)
    for name in kinds_of(Label):
        with pytest.raises(Rejected) as caught:
            check_label(msgspec.structs.replace(label, **{name: CARD_NUMBER}))
        assert caught.value.code == "card_number"
