from pathlib import Path

import pytest
from sluice_simulator.config import Config
from sluice_simulator.rows import BENIGN, FRAUD
from sluice_simulator.stream import Tally

PAGE = Path("docs/reference/simulator.md").read_text()


@pytest.mark.parametrize("name", [*Config.__struct_fields__, *FRAUD, *BENIGN, *Tally().summary()])
def test_the_reference_names_every_key(name: str) -> None:
    assert f"`{name}`" in PAGE
