"""What batch work runs on."""

from __future__ import annotations

import pytest

from sluice.bootstrap import engines
from sluice.errors import Misconfigured


def test_without_spark_its_engine_says_what_to_install():
    with pytest.raises(Misconfigured, match=r"pip install 'sluice\[spark\]'") as told:
        engines.engine(engines.SPARK, 1)
    assert told.value.code == "no_spark"
