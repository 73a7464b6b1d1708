"""ISO 4217: currency codes with the exponent of their minor unit (list one, 2026), and what is
withdrawn but may stand in a history of the last years (list three)."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from sluice.domain.records.codes import numbered

# A currency's number is its place, and numbers lie in states, pending entries and records. So a new
# one goes to the end, and none is taken out or moved: one that is withdrawn stays. Then add a line
# to APPENDED in tests/unit/domain/test_codes.py.
_TABLE = """
AED 2;AFN 2;ALL 2;AMD 2;AOA 2;ARS 2;AUD 2;AWG 2;AZN 2;BAM 2;BBD 2;BDT 2;BHD 3
BIF 0;BMD 2;BND 2;BOB 2;BRL 2;BSD 2;BTN 2;BWP 2;BYN 2;BZD 2;CAD 2;CDF 2;CHF 2
CLP 0;CNY 2;COP 2;CRC 2;CUP 2;CVE 2;CZK 2;DJF 0;DKK 2;DOP 2;DZD 2;EGP 2;ERN 2
ETB 2;EUR 2;FJD 2;FKP 2;GBP 2;GEL 2;GHS 2;GIP 2;GMD 2;GNF 0;GTQ 2;GYD 2;HKD 2
HNL 2;HTG 2;HUF 2;IDR 2;ILS 2;INR 2;IQD 3;IRR 2;ISK 0;JMD 2;JOD 3;JPY 0;KES 2
KGS 2;KHR 2;KMF 0;KPW 2;KRW 0;KWD 3;KYD 2;KZT 2;LAK 2;LBP 2;LKR 2;LRD 2;LSL 2
LYD 3;MAD 2;MDL 2;MGA 2;MKD 2;MMK 2;MNT 2;MOP 2;MRU 2;MUR 2;MVR 2;MWK 2;MXN 2
MYR 2;MZN 2;NAD 2;NGN 2;NIO 2;NOK 2;NPR 2;NZD 2;OMR 3;PAB 2;PEN 2;PGK 2;PHP 2
PKR 2;PLN 2;PYG 0;QAR 2;RON 2;RSD 2;RUB 2;RWF 0;SAR 2;SBD 2;SCR 2;SDG 2;SEK 2
SGD 2;SHP 2;SLE 2;SOS 2;SRD 2;SSP 2;STN 2;SVC 2;SYP 2;SZL 2;THB 2;TJS 2;TMT 2
TND 3;TOP 2;TRY 2;TTD 2;TWD 2;TZS 2;UAH 2;UGX 0;USD 2;UYU 2;UZS 2;VED 2;VES 2
VND 0;VUV 0;WST 2;XAD 2;XAF 0;XCD 2;XCG 2;XOF 0;XPF 0;YER 2;ZAR 2;ZMW 2;ZWG 2
BGN 2;HRK 2;ANG 2;CUC 2;ZWL 2;SLL 2;VEF 2;MRO 2;STD 2;BYR 0;LTL 2;LVL 2;EEK 2
"""
_ENDED = """
BGN 2025-12-31;HRK 2022-12-31;ANG 2025-06-30;CUC 2021-06-30;ZWL 2024-08-31;SLL 2023-12-31
VEF 2018-08-20;MRO 2018-06-30;STD 2018-06-30;BYR 2016-12-31;LTL 2014-12-31;LVL 2013-12-31
EEK 2010-12-31
"""
"""The last day on which a withdrawn one was paid with, where it lived on beside its successor the
end of that."""
ELSEWHERE = timedelta(hours=12)
"""The last day ends so much later than in UTC where it ends last."""

_ROWS = [row.split() for row in _TABLE.replace("\n", ";").split(";") if row]

EXPONENTS: dict[str, int] = {code: int(exponent) for code, exponent in _ROWS}
CURRENCY_INDEX: dict[str, int] = numbered(code for code, _ in _ROWS)
"""Small number of each currency for the states; 0 is unknown."""
ENDED: dict[str, date] = {
    code: date.fromisoformat(day)
    for code, day in (row.split() for row in _ENDED.replace("\n", ";").split(";") if row)
}
"""Currencies that are withdrawn, with the last day on which each was paid with."""
ENDED_US: dict[str, int] = {
    code: int(
        (
            datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1) + ELSEWHERE
        ).timestamp()
    )
    * 1_000_000
    for code, day in ENDED.items()
}
"""From when on no authorization can be in it, microseconds UTC."""
UNITS_MAX = 10**10
"""Of one authorization: ten billion pounds of Lebanon are the price of a car, as many rials of Iran
less. No sum of a window leaves 64 bits by it."""
MINOR_MAX = 10**12 - 1
"""And in minor units: twelve digits, one less than a card number has."""
AMOUNT_MAX_MINOR: dict[str, int] = {
    code: min(UNITS_MAX * 10**exponent, MINOR_MAX) for code, exponent in EXPONENTS.items()
}
"""By currency: the largest amount of one authorization."""
AMOUNT_MIN_MAX_MINOR = min(AMOUNT_MAX_MINOR.values())
"""No amount up to this is too large, whatever its currency."""
