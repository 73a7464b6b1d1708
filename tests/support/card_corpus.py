"""Card numbers in many encodings, and ids of many kinds, sent to the entrypoint's own reader.

  python -m tests.support.card_corpus --count 100000

prints, of each encoding, how many numbers came through, and of each kind of id how many were
refused. Every number that comes through is a leak: behind the entrypoint it lies in topics, store,
archive and logs. Seeded; 100,000 of each take some minutes on one core.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from sluice.domain.records.authorization import check, decode_authorization, encode
from sluice.domain.records.card_numbers import RANGES, passes_luhn
from sluice.domain.records.grammars import Grammars
from sluice.errors import Rejected
from sluice.testing.factories import make_authorization

REFUSED_MAX_PPM = 1_000
"""Of ordinary ids: one in a thousand."""
SHORTEST_INSIDE = 14
"""A number of 13 digits is found only where it stands alone."""
FIELDS = (
    *("authorization_id", "card_token", "merchant_id", "terminal_id", "customer_id", "device_id"),
    *("tenant", "region", "mcc", "currency", "card_country", "ip_prefix", "channel", "colour"),
)
"""Of a message: those of ids, then others of which the last is in no schema."""
_HEX, _LETTERS, _DIGITS = "0123456789abcdef", "ghijklmnopqrstuvwxyz", "0123456789"
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_NOW_MS = 1_795_640_897_296
"""November 2026; the ids of a clock are made around it."""

Rng = random.Random


def card_number(rng: Rng, least: int = 13) -> str:
    """A made-up number of some issuer: its range, one of its lengths, a right check digit."""
    while True:
        _, ranges, lengths = rng.choice(RANGES)
        length = rng.choice(lengths)
        if length >= least:
            break
    first, last = rng.choice(ranges)
    body = f"{rng.randint(first, last):04}" + _some(rng, _DIGITS, length - 5)
    return next(body + digit for digit in _DIGITS if passes_luhn(body + digit))


def _some(rng: Rng, characters: str, count: int) -> str:
    return "".join(rng.choices(characters, k=count))


def _groups(number: str, between: str) -> str:
    sizes = (4, 6, 5) if len(number) == 15 else (4, 6, 4) if len(number) == 14 else (4,) * 5
    parts, at = [], 0
    for size in sizes:
        parts.append(number[at : at + size])
        at += size
    return between.join(part for part in parts if part)


def _uuid(digits: str) -> str:
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32]))


def _among_digits(number: str, rng: Rng) -> str:
    more = rng.randint(max(1, 20 - len(number)), 40)
    before = rng.randint(0, more)
    return _some(rng, _DIGITS, before) + number + _some(rng, _DIGITS, more - before)


def _uuid_from(number: str, rng: Rng) -> str:
    return str(uuid.UUID(number + f"{rng.getrandbits(128):032x}"[len(number) :]))


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


Encode = Callable[[str, Rng], str]
ENCODINGS: dict[str, Encode] = {
    "plain": lambda n, _: n,
    "blanks": lambda n, _: _groups(n, " "),
    "dashes": lambda n, _: _groups(n, "-"),
    "double dashes": lambda n, _: _groups(n, "--"),
    "dots": lambda n, _: _groups(n, "."),
    "underscores": lambda n, _: _groups(n, "_"),
    "slashes": lambda n, _: _groups(n, "/"),
    "every digit apart": lambda n, _: ".".join(n),
    "among words": lambda n, _: f"pan={n};cvv",
    "touching letters": lambda n, r: _some(r, _LETTERS, 3) + n + _some(r, _LETTERS, 2),
    "among digits, 20 and more": _among_digits,
    "padded with zeros": lambda n, r: n.zfill(r.choice((19, 20, 32))),
    "UUID of digits": lambda n, r: _uuid((n + _some(r, _DIGITS, 32))[:32]),
    "start of a UUID": _uuid_from,
    "end of a UUID": lambda n, r: _uuid(f"{r.getrandbits(128):032x}"[: 32 - len(n)] + n),
    "start of a hash": lambda n, r: n + f"{r.getrandbits(256):064x}"[len(n) :],
    "hex": lambda n, _: n.encode().hex(),
    "base64": lambda n, _: _b64(n),
    "base64url behind a prefix": lambda n, r: "tok_"[r.randint(0, 3) :] + _b64(n).rstrip("="),
    "percent": lambda n, _: "".join(f"%{ord(c):02X}" for c in n),
    "groups, in hex": lambda n, _: _groups(n, "-").encode().hex().upper(),
    "groups, in base64": lambda n, _: _b64(_groups(n, "-")),
}
INSIDE = frozenset(
    {
        *("among digits, 20 and more", "padded with zeros", "UUID of digits"),
        *("start of a UUID", "end of a UUID", "start of a hash"),
    }
)
"""Encodings in which other digits may touch those of the number."""


def _clock_digits(rng: Rng) -> str:
    day = f"20{rng.randint(24, 29)}{rng.randint(1, 12):02}{rng.randint(1, 28):02}"
    return f"{day}{rng.randrange(24):02}{rng.randrange(60):02}{rng.randrange(60):02}"


def _uuid7(rng: Rng) -> str:
    bits = (_NOW_MS + rng.randrange(10**10)) << 80 | rng.getrandbits(80)
    bits = bits & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62
    return str(uuid.UUID(int=bits))


def _iban(country: str, digits: int) -> Callable[[Rng], str]:
    def make(rng: Rng) -> str:
        bban = _some(rng, _DIGITS, digits)
        turned = bban + "".join(str(int(c, 36)) for c in country) + "00"
        return f"{country}{98 - int(turned) % 97:02}{bban}"

    return make


def _digits(count: int) -> Callable[[Rng], str]:
    return lambda rng: str(rng.randrange(10 ** (count - 1), 10**count))


def _in_sequence(count: int) -> Callable[[Rng], str]:
    return lambda rng: str(10 ** (count - 1) + rng.randrange(10**8))


def _snowflake(rng: Rng) -> str:
    return str((_NOW_MS - 1_288_834_974_657 + rng.randrange(10**9)) << 22 | rng.getrandbits(22))


Make = Callable[[Rng], str]
IDS: dict[str, Make] = {
    "UUID 4": lambda r: str(uuid.UUID(int=r.getrandbits(128), version=4)),
    "UUID 4 without dashes": lambda r: uuid.UUID(int=r.getrandbits(128), version=4).hex,
    "UUID 7": _uuid7,
    "ULID": lambda r: "01" + _some(r, _CROCKFORD, 24),
    "hex of 16": lambda r: f"{r.getrandbits(64):016x}",
    "hex of 24 (ObjectId)": lambda r: f"{r.getrandbits(96):024x}",
    "hex of 32 (MD5)": lambda r: f"{r.getrandbits(128):032x}",
    "hex of 40 (SHA-1)": lambda r: f"{r.getrandbits(160):040x}",
    "hex of 64 (SHA-256)": lambda r: f"{r.getrandbits(256):064x}",
    "base64 of 16 bytes": lambda r: base64.b64encode(r.randbytes(16)).decode(),
    "base64url of 32 bytes": lambda r: base64.urlsafe_b64encode(r.randbytes(32)).decode()[:43],
    "Nano ID": lambda r: _some(r, _DIGITS + _LETTERS + _LETTERS.upper() + "_-", 21),
    "milliseconds and counter": lambda r: f"tx-{_NOW_MS + r.randrange(10**9)}-{r.randrange(1000)}",
    "microseconds": lambda r: str(_NOW_MS * 1000 + r.randrange(10**12)),
    "time of day and counter": lambda r: f"{_clock_digits(r)}{r.randrange(10**6):06}",
    "time of day, dashes, counter": lambda r: f"{_clock_digits(r)}-{r.randrange(10**6):06}",
    "order number": lambda r: f"ORD-{r.randint(2024, 2029)}-{r.randrange(10**8):08}",
    "12 digits (retrieval reference)": _digits(12),
    "IBAN, DE": _iban("DE", 18),
    "IBAN, ES": _iban("ES", 20),
    "IBAN, PL": _iban("PL", 24),
    **{f"{n} digits in sequence": _in_sequence(n) for n in range(13, 20)},
}
"""Ordinary ids, of which hardly one may be refused."""
OUT_OF_REACH: dict[str, tuple[Make, str]] = {
    "snowflake": (_snowflake, "[12][0-9]{18}"),
    **{f"{n} random digits": (_digits(n), f"[0-9]{{{n}}}") for n in range(13, 20)},
    "20 random digits": (_digits(20), "[0-9]{20}"),
    "23 digits (acquirer reference)": (_digits(23), "[0-9]{23}"),
    "3-7-7 digits": (
        lambda r: "-".join(_some(r, _DIGITS, n) for n in (3, 7, 7)),
        "[0-9]{3}-[0-9]{7}-[0-9]{7}",
    ),
    "IBAN, FI": (_iban("FI", 14), "FI[0-9]{16}"),
}
"""Ids that no check can tell from what hides a card number, each with the grammar to declare it."""


@dataclass
class Found:
    """What became of one encoding or kind. said: refusals that repeat what was sent."""

    sent: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    passed: list[str] = field(default_factory=list)
    said: int = 0

    @property
    def refused_ppm(self) -> float:
        """Refused, in millionths."""
        return 1e6 * (self.sent - len(self.passed)) / self.sent


_GOOD = json.loads(encode(make_authorization("good", tenant="bank")))
_GOOD = {name: value for name, value in _GOOD.items() if value is not None}


def send(found: Found, field: str, text: str, *forbidden: str, grammars: Grammars | None) -> None:
    """One message with a text in a field. forbidden: what no refusal may repeat."""
    raw = json.dumps({**_GOOD, field: text}).encode()
    found.sent += 1
    try:
        decode_authorization(raw, grammars or check)
    except Rejected as error:
        found.codes[error.code] += 1
        found.said += any(one in str(error) for one in forbidden)
    else:
        found.passed.append(text)


def numbers(encoding: str, count: int, seed: int = 1) -> Found:
    """So many card numbers in one encoding, in each field in turn."""
    rng, found = Rng(f"{seed} {encoding}"), Found()
    for n in range(count):
        number = card_number(rng, SHORTEST_INSIDE if encoding in INSIDE else 13)
        text = ENCODINGS[encoding](number, rng)
        send(found, FIELDS[n % len(FIELDS)], text, number, text, grammars=None)
    return found


def ids(make: Make, count: int, seed: int = 1, *, grammar: str = "") -> Found:
    """So many ids of one kind, as an authorization's id. grammar: of its tenant."""
    rng, found = Rng(seed), Found()
    grammars = Grammars({"bank.authorization_id": grammar}) if grammar else None
    for _ in range(count):
        send(found, "authorization_id", make(rng), grammars=grammars)
    return found


def main(argv: list[str] | None = None) -> int:
    """Print all of it. Returns 1 if a number came through or too many ordinary ids were refused."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=10_000, help="Of each encoding and kind.")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(argv)
    wrong = 0
    print(f"{given.count:,} card numbers of each encoding: came through, repeated in an error")
    for name in ENCODINGS:
        found = numbers(name, given.count, given.seed)
        wrong += len(found.passed) + found.said
        print(f"  {name:<34} {len(found.passed):>7} {found.said:>7}")
    print(f"{given.count:,} ids of each kind: refused")
    for name, make in IDS.items():
        found = ids(make, given.count, given.seed)
        wrong += found.refused_ppm >= REFUSED_MAX_PPM
        print(f"  {name:<34} {found.refused_ppm / 1e4:>7.3f} %")
    print("out of reach: refused, and with a grammar")
    for name, (make, grammar) in OUT_OF_REACH.items():
        bare = ids(make, given.count, given.seed)
        line = f"  {name:<34} {bare.refused_ppm / 1e4:>7.3f} %"
        declared = ids(make, given.count, given.seed, grammar=grammar)
        print(f"{line} {declared.refused_ppm / 1e4:>7.3f} %  {grammar}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
