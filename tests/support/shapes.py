"""Made rows in the shape of five public tables: the columns, types and oddities, nothing of theirs.

Each is a file as its readers download it, of a few cards over some days, with known frauds.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

ROWS = 240
FRAUDS = (30, 60, 90)
"""Numbers of the rows that are frauds."""
TOKEN_KEY = "0123456789abcdef0123456789abcdef\n"


@dataclass(frozen=True)
class Shape:
    """A table, and what its bundled mapping must make of it.

    first, until: days that hold all rows. left_out: rows that are no authorizations. genuine: its
    labels say also what was no fraud.
    """

    name: str
    file: str
    first: str
    until: str
    label_delay: str
    left_out: int = 0
    needs_key: bool = False
    genuine: bool = False

    @property
    def labels(self) -> int:
        """How many its mapping makes."""
        return ROWS - self.left_out if self.genuine else len(FRAUDS)

    def write(self, folder: Path) -> Path:
        """The file, in a folder."""
        path = folder / self.file
        _WRITERS[self.name](path)
        return path


SHAPES = (
    Shape("tabformer", "card_transaction.v1.csv", "2019-09-01", "2019-09-13", "7d", 8, True),
    Shape("paysim", "PS_20174392719_1491204439457_log.csv", "2017-01-01", "2017-01-12", "7d", 8),
    Shape("sparkov", "fraudTrain.csv", "2019-01-01", "2019-01-12", "7d", needs_key=True),
    Shape("ulb", "creditcard.csv", "2013-09-01", "2013-09-12", "1d"),
    Shape("handbook-raw", "handbook.parquet", "2018-04-01", "2018-04-19", "7d", genuine=True),
)


def _write(
    path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]], quoting: int = 0
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, quoting=quoting, lineterminator="\n")  # type: ignore[arg-type]
        out.writerow(head)
        out.writerows(rows)


def _moment(first: datetime, i: int) -> datetime:
    return first + timedelta(minutes=61 * i)


def _number(*parts: object) -> int:
    """A number of 63 bits that looks like chance and is the same each time."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _tabformer(path: Path) -> None:
    head = (
        "User,Card,Year,Month,Day,Time,Amount,Use Chip,Merchant Name,Merchant City,Merchant State,"
        "Zip,MCC,Errors?,Is Fraud?"
    )
    places = [
        ("La Verne", "CA", "91750.0", "Swipe Transaction"),
        ("ONLINE", "", "", "Online Transaction"),
        ("Rome", "Italy", "", "Chip Transaction"),
        ("Paris", "TX", "75460.0", "Chip Transaction"),
    ]
    rows = []
    for i in range(ROWS):
        at = _moment(datetime(2019, 9, 1, 6, 1), i)
        city, state, code, chip = places[i % 4]
        amount = "$-99.00" if i % 30 == 29 else f"${i % 90}.{i % 100:02d}"
        errors = "Insufficient Balance," if i % 50 == 0 else ""
        row = [i % 9, i % 2, at.year, at.month, at.day, f"{at:%H:%M}", amount, chip]
        row += [_number("shop", i % 17), city, state, code, 742 if i % 7 == 0 else 5300 + i % 3]
        rows.append([*row, errors, "Yes" if i in FRAUDS else "No"])
    _write(path, head.split(","), rows)


def _paysim(path: Path) -> None:
    head = (
        "step,type,amount,nameOrig,oldbalanceOrg,newbalanceOrig,nameDest,oldbalanceDest,"
        "newbalanceDest,isFraud,isFlaggedFraud"
    )
    kinds = ("PAYMENT", "TRANSFER", "CASH_OUT", "DEBIT")
    rows = []
    for i in range(ROWS):
        kind = "CASH_IN" if i % 30 == 29 else kinds[i % 4]
        amount = 92445516.64 if i == 5 else round(100 + i * 1.37, 2)
        to = f"{'M' if kind == 'PAYMENT' else 'C'}{1979787155 + i % 11}"
        row = [1 + i, kind, amount, f"C{1231006815 + i}", 170136.0, 160296.36, to, 0.0, 0.0]
        rows.append([*row, int(i in FRAUDS), 0])
    _write(path, head.split(","), rows)


def _sparkov(path: Path) -> None:
    head = (
        ",trans_date_trans_time,cc_num,merchant,category,amt,first,last,gender,street,city,state,"
        "zip,lat,long,city_pop,job,dob,trans_num,unix_time,merch_lat,merch_long,is_fraud"
    )
    kinds = ("misc_net", "grocery_pos", "entertainment", "gas_transport", "travel", "home")
    cards = (4111111111111111, 5555555555554444, 60422928733, 180042946491150, 4992346398065154048)
    rows = []
    for i in range(ROWS):
        at = _moment(datetime(2019, 1, 1, 0, 0, 18), i)
        known = hashlib.md5(str(i).encode(), usedforsecurity=False).hexdigest()
        row = [i, f"{at:%Y-%m-%d %H:%M:%S}", cards[i % 5], f"fraud_Rippin, Kub and Mann {i % 13}"]
        row += [kinds[i % 6], round(4.97 + i * 0.31, 2), "Jennifer", "Banks", "F"]
        row += ["561 Perry Cove", "Moravian Falls", "NC", 28654, 36.0788, -81.1781, 3495]
        row += ["Psychologist, counselling", "1988-03-09", known]
        row += [int(at.timestamp()) - 7 * 365 * 86_400, 36.011293, -82.048315]
        rows.append([*row, int(i in FRAUDS)])
    _write(path, head.split(","), rows)


def _ulb(path: Path) -> None:
    head = ["Time", *(f"V{k}" for k in range(1, 29)), "Amount", "Class"]
    rows = []
    for i in range(ROWS):
        values = [round(((i * k) % 97 - 48) / 17, 14) for k in range(1, 29)]
        time = "1e+05" if i == 139 else 719 * i
        rows.append([time, *values, round(i * 1.29, 2), f"{int(i in FRAUDS)}"])
    with path.open("w", newline="") as file:
        out = csv.writer(file, quoting=csv.QUOTE_NONE, lineterminator="\n", quotechar=None)
        out.writerow([f'"{name}"' for name in head])
        out.writerows([*row[:-1], f'"{row[-1]}"'] for row in rows)


def _handbook(path: Path) -> None:
    first = datetime(2018, 4, 1, 0, 0, 31)
    made = pd.DataFrame(
        {
            "TRANSACTION_ID": range(ROWS),
            "TX_DATETIME": [_moment(first, i) for i in range(ROWS)],
            "CUSTOMER_ID": [str(596 + i % 9) for i in range(ROWS)],
            "TERMINAL_ID": [str(3156 + i % 21) for i in range(ROWS)],
            "TX_AMOUNT": [round(57.16 + i * 0.29, 2) for i in range(ROWS)],
            "TX_TIME_SECONDS": [str(31 + 3660 * i) for i in range(ROWS)],
            "TX_TIME_DAYS": [str(3660 * i // 86_400) for i in range(ROWS)],
            "TX_FRAUD": [int(i in FRAUDS) for i in range(ROWS)],
            "TX_FRAUD_SCENARIO": [2 * (i in FRAUDS) for i in range(ROWS)],
        }
    )
    made.to_parquet(path)


_WRITERS = {
    "tabformer": _tabformer,
    "paysim": _paysim,
    "sparkov": _sparkov,
    "ulb": _ulb,
    "handbook-raw": _handbook,
}
