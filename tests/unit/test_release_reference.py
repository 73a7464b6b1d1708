from pathlib import Path

import msgspec
import pytest

from sluice.domain.reference import Distribution, Reference, Segment
from sluice.domain.release import Manifest, Provenance, UsedFeature, Vector

PAGE = Path("docs/reference/release.md").read_text()


@pytest.mark.parametrize(
    "struct", [Manifest, Provenance, UsedFeature, Vector, Reference, Distribution, Segment]
)
def test_every_key_of_a_manifest_is_in_the_reference(struct: type[msgspec.Struct]) -> None:
    missing = [f.name for f in msgspec.structs.fields(struct) if f"`{f.name}`" not in PAGE]
    assert not missing
