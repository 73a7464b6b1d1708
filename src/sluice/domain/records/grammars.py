"""How a tenant makes its ids: a grammar of a field, which its values must follow.

A card number cannot be told from a long id of digits by looking: of 100 random numbers of 19 digits
some 18 hold a stretch that would pass for one. So whoever sends such ids says how they are made.
What does not follow is refused, and in what follows digits beside other digits are no card number.
A number that stands alone in it still is one, and so is one that is encoded.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping

from sluice.domain.records.authorization import FIX, Authorization, check, of_region
from sluice.domain.records.texts import checker, kinds_of
from sluice.errors import Misconfigured

KEY = "decider.grammars"
EVERYONE = "*"
"""Stands for each tenant that has no grammar of its own for a field."""
GRAMMAR_MAX = 128
"""Characters of a grammar; the ids themselves have at most 64."""
_DOCS = "docs/how-to/keep-card-numbers-out.md"
_KEY = re.compile(r"(\*|[a-z0-9-]{1,32})\.([a-z_]{1,64})")
_GRAMMAR = re.compile(
    r"(?:(?:[A-Za-z0-9_:~-]|\\[!-/:-@]|\[[A-Za-z0-9_:.~-]+\])(?:\{[0-9]{1,2}(?:,[0-9]{1,2})?\})?)+"
)
"""Characters, classes and counts. Without groups and open ends a match takes no long time."""
_FIELDS = sorted(name for name, kind in kinds_of(Authorization).items() if kind.of_ids)

Check = Callable[[Authorization], None]


class Grammars:
    """The check of an authorization by its tenant's grammars: as ``check``, and bad_token.

    grammars: ``tenant.field`` or ``*.field`` to the grammar. Raises Misconfigured for one that is
    none, or of no field that holds ids.
    """

    def __init__(self, grammars: Mapping[str, str]) -> None:
        by_tenant: dict[str, dict[str, re.Pattern[str]]] = defaultdict(dict)
        for key, grammar in grammars.items():
            tenant, field = _place(key)
            by_tenant[tenant][field] = _compiled(key, grammar)
        everyone = by_tenant.pop(EVERYONE, {})
        self._others = _check(everyone)
        self._own = {tenant: _check(everyone | own) for tenant, own in by_tenant.items()}

    def __call__(self, auth: Authorization) -> None:
        """Raises Rejected."""
        self._own.get(auth.tenant, self._others)(auth)


def checks(grammars: Mapping[str, str], region: str = "") -> Check:
    """The check by an installation's settings: its tenants' grammars, and the region that it is
    for, empty for any. It raises Rejected as ``check`` does; bad_token, other_region."""
    shapes = Grammars(grammars) if grammars else check
    return of_region(region, shapes) if region else shapes


def _check(shapes: Mapping[str, re.Pattern[str]]) -> Check:
    return checker(Authorization, fix=FIX, shapes=shapes) if shapes else check


def _place(key: str) -> tuple[str, str]:
    found = _KEY.fullmatch(key)
    if found is None or found[2] not in _FIELDS:
        raise Misconfigured(
            "a grammar is for a tenant's field, or for everyone's",
            where=KEY,
            fix=f"TENANT.FIELD or *.FIELD, of {', '.join(_FIELDS)}",
        )
    return found[1], found[2]


def _compiled(key: str, grammar: str) -> re.Pattern[str]:
    where = f"{KEY}: {key}"
    pattern = None
    if len(grammar) <= GRAMMAR_MAX and _GRAMMAR.fullmatch(grammar):
        try:
            pattern = re.compile(grammar, re.ASCII)
        except re.error:
            pattern = None
    if pattern is None:
        raise Misconfigured(
            f"a grammar is characters, classes and counts, in at most {GRAMMAR_MAX} characters",
            where=where,
            fix=f"tok_[0-9a-f]{{32}} for example; {_DOCS}",
        )
    return pattern
