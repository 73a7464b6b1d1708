"""How long a duty keeps what a record of the compliance log is about. Not legal advice.

A quarter's keys are destroyed whole, so a duty of so many months takes that many thirds of quarters
before the current one, rounded up.
"""

from __future__ import annotations

from collections.abc import Mapping

from sluice.errors import Misconfigured

MONTHS: Mapping[str, int] = {
    "ai_act": 6,
    "pci_dss": 12,
    "psd2": 13,
    "chargebacks": 18,
    "reg_b": 25,
    "aml": 60,
}
"""ai_act: Regulation (EU) 2024/1689, 19 and 26(6). pci_dss: PCI DSS 4.0.1, 10.5.1. psd2: Directive
(EU) 2015/2366, 71: how long a payer may say that a payment was not authorised. chargebacks: what a
dispute of a card scheme needs. reg_b: 12 CFR 1002.12(b). aml: Directive (EU) 2015/849, 40."""


def quarters(names: str) -> tuple[int, str]:
    """Quarters that the longest of these duties asks for, comma separated, and its name; 0 and ""
    for none. Raises Misconfigured for a name that is none.

    >>> quarters("pci_dss, reg_b"), quarters("")
    ((9, 'reg_b'), (0, ''))
    """
    found = [name.strip() for name in names.split(",") if name.strip()]
    for name in found:
        if name not in MONTHS:
            raise Misconfigured(
                f"{name!r} is no duty that is known", where="keystore.duties", fix=", ".join(MONTHS)
            )
    return max(((-(-MONTHS[name] // 3), name) for name in found), default=(0, ""))
