"""Keyed hashes in place of card numbers and names."""

import base64
import hmac
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sluice.adapters.files.mapping import Mapper
from sluice.adapters.files.tables import Table
from sluice.adapters.files.tokens import KEY_MAX, read_key, token
from sluice.application.publish import Mapped
from sluice.domain.records.authorization import decode_authorization
from sluice.errors import Misconfigured
from tests.unit.adapters.files.test_mapping import COLUMNS, changed, mapping

KEY = b"0123456789abcdef0123456789abcdef"
NUMBER = "4111111111111111"


def test_a_token_is_the_standards_hash() -> None:
    """RFC 4231, test case 1."""
    whole = bytes.fromhex("b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7")
    assert token(b"\x0b" * 20, "Hi There") == base64.urlsafe_b64encode(whole[:18]).decode()


def test_a_token_is_the_one_that_the_how_to_makes_at_the_edge() -> None:
    page = Path("docs/how-to/keep-card-numbers-out.md").read_text()
    line = next(line for line in page.splitlines() if line.startswith("token = "))
    made: dict[str, str] = {}
    exec(line, {"base64": base64, "hmac": hmac, "key": KEY, "card_number": NUMBER}, made)
    assert made["token"] == "tok_" + token(KEY, NUMBER)


def test_a_token_is_what_the_reference_makes_of_it_in_a_shell(tmp_path: Path) -> None:
    assert shutil.which("openssl"), "apt-get install openssl"
    page = Path("docs/reference/mapping.md").read_text()
    made, told = re.findall(r"```sh\n(.*?)\n(.*?)```", page, re.DOTALL)[0]
    shell = f"{made}\nTEXT={NUMBER}\n{told}"
    said = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, check=True)
    key = read_key(tmp_path / "token.key")
    assert said.stdout.decode().strip() == token(key, NUMBER)


def hashed(folder: Path, row: str, **changes: object) -> Mapped:
    path = folder / "bank.csv"
    path.write_text(f"{COLUMNS}\n{row}\n")
    table = Table(path)
    fields = {"card_token": {"column": "customer", "hash": "tok_"}, **changes}
    mapper = Mapper(mapping(**fields), None, table.columns, path.name, key=KEY)
    (batch,) = table.batches(mapper.wanted)
    return mapper.apply(batch)


def test_card_numbers_and_names_become_tokens(tmp_path: Path) -> None:
    names = {
        "merchant_id": {"template": "{shop}/{till}", "hash": ""},
        "terminal_id": {"column": "till"},
    }
    result = hashed(tmp_path, changed(customer=NUMBER, shop='"Rippin, Kub and Café"'), **names)
    (value,) = result.values
    auth = decode_authorization(value)
    assert auth.card_token == "tok_" + token(KEY, NUMBER)
    assert auth.merchant_id == token(KEY, "Rippin, Kub and Café/2")
    assert NUMBER.encode() not in value


def test_no_dead_letter_has_a_digest_that_a_card_number_could_be_found_by(tmp_path: Path) -> None:
    row = changed(customer=NUMBER, amount="twelve")
    result = hashed(tmp_path, row)
    (bad,) = result.bad
    assert bad.raw == hmac.digest(KEY, f"{row}\n".encode(), "sha256")


def test_an_empty_cell_has_no_token(tmp_path: Path) -> None:
    (row,) = hashed(tmp_path, changed(customer="NULL")).bad
    assert "empty, and card_token is required" in row.error.what


def test_without_a_key_nothing_is_hashed(tmp_path: Path) -> None:
    using = mapping(card_token={"column": "customer", "hash": "tok_"})
    with pytest.raises(Misconfigured, match="hashes card_token, and there is no key") as caught:
        Mapper(using, None, COLUMNS.split(","), "bank.csv")
    assert "openssl rand" in caught.value.fix


@pytest.mark.parametrize(
    "source",
    [
        {"column": "c", "hash": "tok_", "values": {"a": "b"}},
        {"constant": "c", "hash": "tok_"},
        {"column": "c", "hash": "with blank"},
        {"column": "c", "hash": "x" * 41},
    ],
)
def test_a_hash_of_what_is_none_is_refused(source: dict[str, object]) -> None:
    import msgspec

    with pytest.raises(msgspec.ValidationError):
        mapping(card_token=source)


def test_a_key_is_a_files_bytes_without_the_line_end(tmp_path: Path) -> None:
    path = tmp_path / "token.key"
    path.write_bytes(KEY + b"\n")
    assert read_key(path) == KEY


@pytest.mark.parametrize("raw", [None, b"", b"\n" * 40, b"short", b"x" * (KEY_MAX + 1)])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, raw: bytes | None) -> None:
    path = tmp_path / "token.key"
    if raw is not None:
        path.write_bytes(raw)
    with pytest.raises(Misconfigured, match="key"):
        read_key(path)
