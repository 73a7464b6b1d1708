"""How many examples a hypothesis test runs. tests/conftest.py registers the profiles."""

from __future__ import annotations

from hypothesis import settings

THOROUGH = "thorough"


def examples(usual: int) -> settings:
    """Settings of a test: so many examples, except that ``thorough`` decides for every test.

    A test takes its settings from here alone: the rest of them (whether they are the same in each
    run, above all) is the profile's.
    """
    if settings.get_current_profile_name() == THOROUGH:
        return settings()
    return settings(max_examples=usual)
