from pathlib import Path

import msgspec
import pytest

from sluice.domain.policy.fx import Fx
from sluice.domain.policy.policy import Listing, Measured, Pack, Steps, Thresholds
from sluice.domain.policy.rules import Rule, When

PAGE = Path("docs/reference/policy.md").read_text()


@pytest.mark.parametrize("struct", [Pack, Thresholds, Steps, Rule, When, Listing, Measured, Fx])
def test_every_key_of_a_pack_is_in_the_reference(struct: type[msgspec.Struct]) -> None:
    missing = [f.name for f in msgspec.structs.fields(struct) if f.name not in PAGE]
    assert not missing
