"""Key sets: which keys are taken, and when they are read again."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from sluice.adapters.identity.keys import AGAIN_S, MAX_BYTES, MAX_KEYS, STALE_S, KeySet
from sluice.application.access import Refused
from sluice.errors import Misconfigured
from tests.support.issuer import Issuer

ALGORITHMS = ("RS256", "ES256")
SECRET: dict[str, Any] = {
    "kty": "oct",
    "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ",
    "kid": "1",
}


def key_set(path: Path, *keys: dict[str, Any], **more: Any) -> KeySet:
    path.write_text(json.dumps({"keys": keys}))
    return KeySet(str(path), ALGORITHMS, **more)


def private(issuer: Issuer) -> dict[str, Any]:
    made: dict[str, Any] = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()), as_dict=True)
    return {k: v for k, v in made.items() if k != "key_ops"} | {"kid": "1"}


def weak() -> dict[str, Any]:
    made: dict[str, Any] = RSAAlgorithm.to_jwk(
        rsa.generate_private_key(65537, 1024).public_key(), as_dict=True
    )
    return {k: v for k, v in made.items() if k != "key_ops"} | {"kid": "1"}


def test_each_key_verifies_what_its_type_can_and_we_allow(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    keys = key_set(tmp_path / "keys", issuer.key("rsa-1"), issuer.key("ec-1"))
    keys.read()
    assert keys.find("rsa-1").algorithms == {"RS256"}
    assert keys.find("ec-1").algorithms == {"ES256"}


@pytest.mark.parametrize(
    "case", ["secret", "private", "weak", "encryption", "signing", "other alg", "HS256", "broken"]
)
def test_a_key_that_must_not_verify_is_left_out(tmp_path: Path, case: str) -> None:
    issuer = Issuer(tmp_path)
    good = issuer.key("rsa-1")
    bad: dict[str, dict[str, Any]] = {
        "secret": SECRET,
        "private": private(issuer),
        "weak": weak(),
        "encryption": good | {"use": "enc"},
        "signing": good | {"key_ops": ["sign"]},
        "other alg": good | {"alg": "RS512"},
        "HS256": good | {"alg": "HS256"},
        "broken": {"kty": "RSA", "n": "!", "e": "AQAB", "kid": "1"},
    }
    with pytest.raises(Misconfigured, match="none of the 1 keys can verify ES256, RS256"):
        key_set(tmp_path / "keys", bad[case]).read()
    keys = key_set(tmp_path / "keys", bad[case], issuer.key("ec-1"))
    keys.read()
    assert keys.find("ec-1").algorithms == {"ES256"}
    assert keys.find(None) is keys.find("ec-1"), "the only one that is left"


@pytest.mark.parametrize(
    "text",
    [b"", b"nonsense", b"[]", b"{}", b'{"keys": 7}', b'{"keys": []}', b"\xff", b"[" * 100_000],
    ids=["empty", "nonsense", "list", "object", "number", "none", "bytes", "deep"],
)
def test_what_is_no_key_set_is_refused_and_says_where(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "keys"
    path.write_bytes(text)
    with pytest.raises(Misconfigured, match=r"access\.keys"):
        KeySet(str(path), ALGORITHMS).read()


def test_a_set_has_bounds(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    many = [issuer.key(f"ec-{i}") for i in range(MAX_KEYS + 1)]
    with pytest.raises(Misconfigured, match=f"over {MAX_KEYS} keys"):
        key_set(tmp_path / "keys", *many).read()
    (tmp_path / "large").write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(Misconfigured, match=f"over {MAX_BYTES} bytes"):
        KeySet(str(tmp_path / "large"), ALGORITHMS).read()
    with pytest.raises(Misconfigured, match="cannot read the keys"):
        KeySet(str(tmp_path / "absent"), ALGORITHMS).read()


def test_two_keys_of_one_id_are_refused(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    with pytest.raises(Misconfigured, match="same id"):
        key_set(tmp_path / "keys", issuer.key("ec-1"), issuer.key("ec-1")).read()


@pytest.mark.parametrize("wrong", [["HS256"], ["none"], ["RS256", "HS512"], [], ["rs256"]])
def test_only_asymmetric_algorithms_can_be_allowed(wrong: list[str]) -> None:
    with pytest.raises(Misconfigured, match=r"access\.algorithms"):
        KeySet("keys.json", wrong)


def test_a_set_that_became_wrong_leaves_the_last_good_one(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    keys = key_set(tmp_path / "keys", issuer.key("rsa-1"))
    keys.read()
    generation = keys.generation
    (tmp_path / "keys").write_text("nonsense")
    with pytest.raises(Misconfigured):
        keys.read()
    assert keys.find("rsa-1")
    assert keys.generation == generation


def test_an_unknown_key_makes_us_read_again_but_not_for_everyone(tmp_path: Path) -> None:
    now = [0.0]
    issuer = Issuer(tmp_path)
    keys = key_set(tmp_path / "keys", issuer.key("rsa-1"), monotonic=lambda: now[0])
    keys.read()
    for kid in ("rsa-2", None, 7, ["rsa-1"]):
        if kid is not None:
            with pytest.raises(Refused) as refused:
                keys.find(kid)
            assert (refused.value.reason, refused.value.code) == ("unknown_key", "invalid_token")
    assert not keys.may_read_again()
    now[0] += AGAIN_S
    assert keys.may_read_again()
    with pytest.raises(Refused) as refused:
        keys.find("rsa-2")
    assert (refused.value.reason, refused.value.code) == ("key_not_read_yet", "unavailable")
    key_set(tmp_path / "keys", issuer.key("rsa-1"), issuer.key("rsa-2"))
    keys.read()
    assert keys.find("rsa-2")


def test_keys_that_could_not_be_read_for_a_day_vouch_for_nobody(tmp_path: Path) -> None:
    now = [0.0]
    issuer = Issuer(tmp_path)
    keys = key_set(tmp_path / "keys", issuer.key("rsa-1"), monotonic=lambda: now[0])
    keys.read()
    now[0] += STALE_S
    assert keys.find("rsa-1")
    now[0] += 1
    with pytest.raises(Refused) as refused:
        keys.find("rsa-1")
    assert (refused.value.reason, refused.value.code) == ("keys_unavailable", "unavailable")
