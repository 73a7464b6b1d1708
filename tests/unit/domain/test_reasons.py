from pathlib import Path

from sluice.domain.features import catalogue
from sluice.domain.policy.reasons import BY_CODE, MODEL_CODES, REASONS, reference_page

PAGE = Path("docs/reference/reason-codes.md")


def test_no_code_is_used_twice() -> None:
    assert len(BY_CODE) == len(REASONS)


def test_every_group_of_the_catalogue_has_a_reason_of_its_own() -> None:
    assert {f.group for f in catalogue.FEATURES} == set(MODEL_CODES)


def test_the_reference_page_is_what_the_table_says() -> None:
    assert PAGE.read_text() == reference_page(), (
        "write it again: python -m sluice.domain.policy.reasons > PAGE"
    )
