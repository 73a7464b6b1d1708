from pathlib import Path

import msgspec
import pytest

from sluice.domain.policy.fx import Fx
from sluice.domain.policy.policy import Listing, Measured, Pack, Thresholds
from sluice.domain.policy.rules import Rule, When
from sluice.domain.records.outcome import STRICTER

PAGE = Path("docs/reference/policy.md").read_text()


@pytest.mark.parametrize("struct", [Pack, Thresholds, Rule, When, Listing, Measured, Fx])
def test_every_key_of_a_pack_is_in_the_reference(struct: type[msgspec.Struct]) -> None:
    missing = [f.name for f in msgspec.structs.fields(struct) if f.name not in PAGE]
    assert not missing


def test_every_step_is_in_the_reference() -> None:
    assert not [outcome for outcome in STRICTER if outcome not in PAGE]
