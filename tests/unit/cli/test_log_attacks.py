"""What an attacker does to a compliance log, and where ``sluice log`` catches it.

Each attack has its exit status, and the entry that is named. Where it can see it, the second
verifier of docs/reference, which shares no code with ours, gives the same status.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sluice.application.read_log import Order, Unverifiable, opened
from sluice.application.sealing import SealingKey
from sluice.audit.entries import HEADER_MAX_BYTES, join
from sluice.audit.errors import Malformed, Tampered
from sluice.audit.merkle import leaf_hash, node_hash
from sluice.audit.notes import LOG, Key
from sluice.audit.proofs import Proof, parse_proof
from sluice.audit.tiles import Tile, pack_entries, unpack_entries
from sluice.cli import main
from sluice.domain.records import log_record
from sluice.errors import Corrupt, Misconfigured, Unavailable
from sluice.testing.log import KeptCheckpoints, log_at
from tests.support import logs

ROOT = Path(__file__).resolve().parents[3]
COUNT = 600
KEY = str(logs.KEY)
WITNESS = str(logs.SEEN_BY)
NOW_S = logs.START_US // 1_000_000
ENTRIES = logs.entries(COUNT)
FILES, _ = logs.tree_files(ENTRIES)
Json = dict[str, Any]


def second() -> ModuleType:
    """The second verifier."""
    spec = importlib.util.spec_from_file_location("second", ROOT / "docs/reference/verify_log.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SECOND = second()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log that a witness cosigned, which the test may spoil."""
    logs.write_log(tmp_path / "log", ENTRIES, cosigned_s=NOW_S + 60)
    return tmp_path / "log"


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Json]]:
    """Exit status and verdict of a folder; it never prints what acts on a terminal."""

    def asked(folder: Path, *more: str, key: str = KEY) -> tuple[int, Json]:
        capsys.readouterr()
        status = main(["log", "verify", str(folder), "--key", key, *more, "--json"])
        told = capsys.readouterr()
        assert (told.out + told.err).isascii()
        said = json.loads(told.out)
        (verdict,) = said["logs"]
        again = main(["log", "verify", str(folder), "--key", key, *more])
        for_people = capsys.readouterr().out
        assert again == status
        assert all(c >= " " or c == "\n" for c in for_people)
        return status, verdict | {"missing": said.get("missing")}

    return asked


def also(folder: Path, *witnesses: str, key: str = KEY) -> int:
    """What the second verifier says."""
    status: int = SECOND.main([str(folder), key, *witnesses])
    return status


def saved(path: Path, raw: bytes) -> str:
    path.write_bytes(raw)
    return str(path)


def signed_log(folder: Path, entries: list[bytes], **more: Any) -> Path:
    """A log that somebody with the key made: only what it says can be wrong."""
    logs.write_log(folder, entries, **more)
    return folder


Verify = Callable[..., tuple[int, Json]]


def test_the_log_is_whole_before_anybody_touches_it(folder: Path, verify: Verify) -> None:
    status, said = verify(folder, "--witness", WITNESS, "--require-witness", "1")
    assert (status, said["checked"]) == (0, COUNT)
    assert also(folder, WITNESS) == 0


def test_a_flipped_bit_in_any_file_is_named_by_its_entry(folder: Path, verify: Verify) -> None:
    """A few of each file; all of them: tests/unit/audit/test_verify.py."""
    rng = random.Random(52)
    for path, raw in FILES.items():
        for at in rng.sample(range(len(raw)), 4):
            changed = bytearray(raw)
            changed[at] ^= 1 << rng.randrange(8)
            (folder / path).write_bytes(changed)
            status, said = verify(folder)
            assert status == 1, (path, at)
            assert also(folder) == 1, (path, at)
            if path.startswith("tile/0"):
                index = int(path.split("/")[2][:3]) * 256 + at // 32
                assert (said["first_bad"], said["until"]) == (index, index + 1)
        (folder / path).write_bytes(raw)
    assert verify(folder)[0] == 0


def test_every_flipped_byte_of_the_checkpoint_is_caught(folder: Path, verify: Verify) -> None:
    """With the cosignatures: one whose name or key id is changed is nobody's, and missing."""
    path = folder / "checkpoint"
    raw = path.read_bytes()
    cosignature = raw.rindex(b"\n", 0, -1) + 1
    order = Order(logs.KEY, [logs.SEEN_BY], 1)
    for at in range(len(raw)):
        changed = bytearray(raw)
        changed[at] ^= 1 << at % 8
        with pytest.raises((Tampered, Unverifiable)) as caught:
            opened(lambda _, now=bytes(changed): now, order)
        assert caught.type is Tampered or at >= cosignature, at
        if at % 13 == 0:
            path.write_bytes(changed)
            status, _ = verify(folder, "--witness", WITNESS, "--require-witness", "1")
            assert status == (1 if caught.type is Tampered else 3)
            assert also(folder, WITNESS) in (1, 3)


def test_a_log_made_anew_with_another_key_is_not_the_logs(folder: Path, verify: Verify) -> None:
    signed_log(folder, ENTRIES, key=logs.OTHER_KEY)
    assert verify(folder)[0] == 1
    assert also(folder) == 1


def test_a_log_made_anew_with_the_stolen_key_is_told_by_witness_and_older_checkpoint(
    folder: Path, tmp_path: Path, verify: Verify
) -> None:
    kept = saved(tmp_path / "kept", logs.signed(500, logs.tree_files(ENTRIES[:500])[1]))
    older = saved(tmp_path / "older", logs.signed(300, logs.tree_files(ENTRIES[:300])[1]))
    forged = [*ENTRIES[:417], logs.entry(417, authorization_id="another"), *ENTRIES[418:]]
    signed_log(folder, forged)
    assert verify(folder)[0] == 0, "in itself it holds"
    witness = ("--witness", WITNESS, "--require-witness", "1")
    assert verify(folder, *witness)[0] == 3, "no witness cosigns two histories"
    assert also(folder, WITNESS) == 3
    status, said = verify(folder, "--known", kept, "--known", older)
    assert (status, said["first_bad"], said["until"]) == (1, 300, 500)
    status, said = verify(folder, "--since", older, "--known", kept)
    assert (status, said["first_bad"], said["until"]) == (1, 300, 500)
    assert verify(folder, "--since", kept)[0] == 1


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda e: e[:417] + e[418:], id="delete"),
        pytest.param(lambda e: [*e[:417], logs.entry(9999), *e[417:]], id="insert"),
        pytest.param(lambda e: [*e[:417], e[418], e[417], *e[419:]], id="reorder"),
        pytest.param(lambda e: [*e[:417], e[416], *e[417:]], id="duplicate"),
    ],
)
def test_records_that_were_moved_are_named(
    folder: Path, verify: Verify, change: Callable[[list[bytes]], list[bytes]]
) -> None:
    changed = (change(ENTRIES) + ENTRIES)[:COUNT]
    for index in range(3):
        tile = Tile(0, index, min(256, COUNT - index * 256))
        bundle = pack_entries(changed[index * 256 :][: tile.width])
        (folder / tile.entries_path).write_bytes(bundle)
    status, said = verify(folder)
    assert (status, said["first_bad"], said["until"]) == (1, 417, 418)
    assert also(folder) == 1
    # The same with all tiles made anew: they agree with the entries, and not with what was signed.
    logs.write_files(folder, logs.tree_files(changed)[0])
    status, said = verify(folder)
    assert status == 1
    assert said["first_bad"] <= 417 < said["until"]
    assert also(folder) == 1


def test_a_log_set_back_to_an_older_checkpoint_is_told_by_a_newer_one(
    folder: Path, tmp_path: Path, verify: Verify
) -> None:
    kept = saved(tmp_path / "kept", (folder / "checkpoint").read_bytes())
    signed_log(folder, ENTRIES[:500], cosigned_s=NOW_S + 30)
    assert verify(folder)[0] == 0, "it was the log once"
    for option in ("--known", "--since"):
        status, said = verify(folder, option, kept)
        assert (status, said["first_bad"], said["until"]) == (1, 500, COUNT)


def test_a_fork_that_was_shown_to_two_auditors_is_told_by_their_checkpoints(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = str(folder / "checkpoint")
    forked = [*ENTRIES[:417], logs.entry(417, authorization_id="another"), *ENTRIES[418:]]
    signed_log(tmp_path / "other", forked)
    other = str(tmp_path / "other" / "checkpoint")
    assert main(["log", "diff", one, other, "--key", KEY]) == 1
    assert "two roots of a tree of 600" in capsys.readouterr().err
    signed_log(tmp_path / "shorter", forked[:500])
    shorter = str(tmp_path / "shorter" / "checkpoint")
    for shown in (folder, tmp_path / "other"):
        expected = 0 if shown != folder else 1
        argv = ["log", "diff", shorter, other if shown != folder else one, "--key", KEY]
        assert main([*argv, "--log", str(shown)]) == expected


def test_records_that_were_never_appended_are_named_by_their_offsets(
    folder: Path, tmp_path: Path, verify: Verify
) -> None:
    lacks = [logs.entry(i if i < 417 else i + 3) for i in range(COUNT)]
    signed_log(folder, lacks)
    assert verify(folder)[0] == 0
    status, said = verify(folder, "--accounting", "--offline")
    assert status == 2
    assert [(one["topic"], one["emitter"]) for one in said["missing"]] == [
        ("labels.v1", None), (None, "labeller-1")
    ]  # fmt: skip
    assert all((one["first"], one["until"]) == (417, 420) for one in said["missing"])
    # A gap gives the offsets their reason, and the emitter's numbers are still missing.
    given = [*lacks[:417], logs.gap(417, 417, 420), *lacks[417:]]
    status, said = verify(signed_log(tmp_path / "gap", given), "--accounting", "--offline")
    assert status == 2
    assert [one["topic"] for one in said["missing"]] == [None]


def test_a_record_that_was_appended_twice_is_named(folder: Path, verify: Verify) -> None:
    twice = [*ENTRIES[:417], logs.entry(100, at_us=logs.START_US + 417_000), *ENTRIES[418:]]
    signed_log(folder, twice)
    status, said = verify(folder, "--accounting", "--offline")
    assert (status, said["first_bad"]) == (1, 417)
    signed_log(folder, [*ENTRIES[:417], logs.gap(417, 100, 103), *ENTRIES[418:]])
    status, said = verify(folder, "--accounting", "--offline")
    assert (status, said["first_bad"]) == (1, 417)


def test_a_record_that_was_dated_back_is_named(
    folder: Path, tmp_path: Path, verify: Verify
) -> None:
    back = [*ENTRIES[:417], logs.entry(417, at_us=logs.START_US - 60_000_000), *ENTRIES[418:]]
    signed_log(folder, [*ENTRIES[:417], logs.entry(417, at_us=logs.START_US), *ENTRIES[418:]])
    assert verify(folder)[0] == 0, "clocks are set back by less than a minute"
    assert also(folder) == 0
    signed_log(folder, back)
    status, said = verify(folder)
    assert (status, said["first_bad"]) == (1, 417)
    assert also(folder) == 1
    # All that came after a cosignature, by the same hour: each is later than the one before it.
    signed_log(folder, ENTRIES)
    root = logs.tree_files(ENTRIES[:400])[1]
    seen = saved(tmp_path / "seen", logs.signed(400, root, cosigned_s=NOW_S + 3_600))
    assert verify(folder, "--known", seen)[0] == 0, "nobody cosigned for this key"
    status, said = verify(folder, "--known", seen, "--witness", WITNESS)
    assert (status, said["first_bad"]) == (1, 400)


@pytest.mark.parametrize("origin", ["test.example/eu/1", "prod.example/eu/0"])
def test_a_copy_of_another_shard_or_environment_is_not_this_log(
    folder: Path, verify: Verify, origin: str
) -> None:
    entries = [logs.entry(i, log=origin) for i in range(COUNT)]
    signed_log(folder, entries, origin=origin)
    assert verify(folder)[0] == 1, "its checkpoint"
    assert also(folder) == 1
    mixed = [*ENTRIES[:417], entries[417], *ENTRIES[418:]]
    status, said = verify(signed_log(folder, mixed))
    assert (status, said["first_bad"]) == (1, 417)
    assert also(folder) == 1


def test_a_key_that_was_retired_signs_nothing_any_more(folder: Path, verify: Verify) -> None:
    newer = str(Key(logs.ORIGIN, LOG, logs.OTHER_KEY.public_key()))
    assert verify(folder, key=newer)[0] == 1, "the retired key signed it"
    assert also(folder, key=newer) == 1
    signed_log(folder, ENTRIES, key=logs.OTHER_KEY)
    assert verify(folder, key=newer)[0] == 0
    assert verify(folder)[0] == 1


def test_a_log_says_itself_from_where_on_another_key_signs(
    folder: Path, verify: Verify, tmp_path: Path
) -> None:
    newer = Key(logs.ORIGIN, LOG, logs.OTHER_KEY.public_key())
    rotated = [*ENTRIES[:500], logs.rotation(500, logs.KEY, newer), *ENTRIES[501:]]
    last, late = tmp_path / "last", tmp_path / "late"
    for path, size in ((last, 500), (late, 550)):
        signed_log(folder, rotated[:size])
        path.write_bytes((folder / "checkpoint").read_bytes())
    signed_log(folder, rotated, key=logs.OTHER_KEY)
    both = ["--retired", KEY]
    assert verify(folder, "--known", str(last), *both, key=str(newer))[0] == 0
    assert verify(folder, "--since", str(last), *both, key=str(newer))[0] == 0
    assert verify(folder, "--known", str(last), key=str(newer))[0] == 3, "an unknown key"
    status, said = verify(folder, "--known", str(late), *both, key=str(newer))
    assert (status, said["first_bad"]) == (1, 500), "signed by the old key after it was retired"
    status, said = verify(signed_log(folder, rotated))
    assert (status, said["first_bad"]) == (1, 500), "even who knows the old key alone sees it"
    early = tmp_path / "early"
    signed_log(folder, rotated[:400], key=logs.OTHER_KEY)
    early.write_bytes((folder / "checkpoint").read_bytes())
    signed_log(folder, rotated, key=logs.OTHER_KEY)
    assert verify(folder, "--known", str(early), key=str(newer))[0] == 1, "before it was there"


def proof_of(folder: Path, out: Path, index: int = 417) -> bytes:
    argv = ["log", "prove", str(folder), "--index", str(index), "--key", KEY]
    assert main([*argv, "--out", str(out)]) == 0
    return out.read_bytes()


def test_a_flipped_byte_of_a_proof_is_caught(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "proof"
    raw = proof_of(folder, out)
    argv = ["log", "verify-proof", str(out), "--key", KEY, "--witness", WITNESS]
    assert main(argv) == 0
    for at in range(0, len(raw), 17):  # each of them: tests/unit/audit/test_proofs.py
        changed = bytearray(raw)
        changed[at] ^= 1 << at % 8
        out.write_bytes(changed)
        assert main([*argv, "--require-witness", "1"]) in (1, 3), at


def test_a_proof_that_is_none_cannot_be_verified(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "proof"
    raw = proof_of(folder, out)
    for other in (
        b"", raw[:-1], raw[:40], b"\xff" + raw, raw.replace(b"index 417", b"index 0417"),
        raw.replace(b"index 417", b"index -1"), raw.replace(b"extra ", b"extra ="), bytes(3 << 20),
        raw.replace(b"extra ", b"other "),
    ):  # fmt: skip
        out.write_bytes(other)
        assert main(["log", "verify-proof", str(out), "--key", KEY]) == 3
    for other in (raw.replace(b"index 417", b"index 416"), _with_entry(raw, ENTRIES[416])):
        out.write_bytes(other)
        assert main(["log", "verify-proof", str(out), "--key", KEY]) == 1


def _with_entry(raw: bytes, entry: bytes) -> bytes:
    proof = parse_proof(raw)
    return bytes(Proof(proof.index, proof.hashes, proof.checkpoint, entry))


def test_a_node_of_the_tree_does_not_pass_for_a_leaf(folder: Path, tmp_path: Path) -> None:
    """Two hashes that stand beside each other, given out as an entry one level up (RFC 6962, 2.1:
    why a leaf and a node begin with another byte)."""
    proof = parse_proof(proof_of(folder, tmp_path / "proof", 416))
    pair = leaf_hash(ENTRIES[416]) + leaf_hash(ENTRIES[417])
    for entry in (pair, b"\x01" + pair, node_hash(pair[:32], pair[32:])):
        for index in (416, 208):
            forged = Proof(index, proof.hashes[1:], proof.checkpoint, entry)
            out = saved(tmp_path / "forged", bytes(forged))
            assert main(["log", "verify-proof", out, "--key", KEY]) in (1, 3)


HEADER = logs.header(417)


def _in(old: bytes, new: bytes) -> bytes:
    assert old in HEADER
    return HEADER.replace(old, new)


INJECTED = {
    "ANSI": _in(b'"labeller-1"', b'"a\x1b[2Jb"'),
    "ANSI, escaped": _in(b'"labeller-1"', b'"a\\u001b[2Jb"'),
    "a line": _in(b'"labeller-1"', b'"a\\nb"'),
    "a carriage return": _in(b'"labeller-1"', b'"a\rb"'),
    "NUL": _in(b'"labeller-1"', b'"a\x00b"'),
    "NUL, escaped": _in(b'"labeller-1"', b'"a\\u0000b"'),
    "DEL": _in(b'"labeller-1"', b'"a\x7fb"'),
    "bidi": _in(b'"labeller-1"', '"a\u202eb"'.encode()),
    "half a pair": _in(b'"labeller-1"', b'"a\\ud800b"'),
    "no UTF-8": _in(b'"labeller-1"', b'"a\xffb"'),
    "a huge integer": _in(b'"sequence":417', b'"sequence":' + b"9" * 40),
    "beyond 2**53": _in(b'"sequence":417', b'"sequence":9007199254740993'),
    "a float": _in(b'"sequence":417', b'"sequence":417.0'),
    "an exponent": _in(b'"sequence":417', b'"sequence":4e2'),
    "minus nothing": _in(b'"sequence":417', b'"sequence":-0'),
    "NaN": _in(b'"sequence":417', b'"sequence":NaN'),
    "a key twice": _in(b'"sequence":417', b'"sequence":416,"sequence":417'),
    "a key twice inside": _in(b'"offset":417', b'"offset":416,"offset":417'),
    "blanks": _in(b'"sequence":417', b'"sequence": 417'),
    "a comment": _in(b'"sequence":417', b'"sequence":417/**/'),
    "a comma": HEADER[:-1] + b",}",
    "an escape not needed": _in(b'"labeller-1"', b'"\\u006cabeller-1"'),
    "more behind it": HEADER + b"{}",
    "a byte order mark": b"\xef\xbb\xbf" + HEADER,
    "no object": b"[" + HEADER + b"]",
}  # fmt: skip
ONLY_THE_SCHEMA = {
    "an unknown key": HEADER[:-1] + b',"also":1}',
    "another order": HEADER.replace(b'"sequence":417,', b"").replace(
        b'"v":1,', b'"v":1,"sequence":417,'
    ),
    "deep": HEADER[:-1] + b',"also":' + b"[" * 7_000 + b"]" * 7_000 + b"}",
}
"""Refused by who knows the records: any two readers would read the same in it."""


@pytest.mark.parametrize("name", [*INJECTED, *ONLY_THE_SCHEMA])
def test_a_header_that_two_readers_may_read_otherwise_is_refused_by_all(
    folder: Path, verify: Verify, name: str
) -> None:
    header = {**INJECTED, **ONLY_THE_SCHEMA}[name]
    signed_log(folder, [*ENTRIES[:417], header + b"\n", *ENTRIES[418:]])
    status, said = verify(folder)
    assert (status, said["first_bad"], said["until"]) == (1, 417, 418)
    with pytest.raises(Malformed):
        log_record.read(header)
    if name in INJECTED:
        assert also(folder) == 1
    assert main(["log", "tail", str(folder), "-n", str(COUNT - 417)]) in (0, 3)


@pytest.mark.parametrize(
    "entry", [b"", b"\n", b"sealed", b"{}", HEADER, b" " * (HEADER_MAX_BYTES + 1) + b"\n"]
)
def test_an_entry_without_a_header_is_named(folder: Path, verify: Verify, entry: bytes) -> None:
    signed_log(folder, [*ENTRIES[:417], entry, *ENTRIES[418:]])
    status, said = verify(folder)
    assert (status, said["first_bad"]) == (1, 417)
    assert also(folder) == 1


def test_what_prints_a_log_prints_nothing_that_acts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signed_log(folder, [INJECTED["ANSI"] + b"\n", INJECTED["bidi"] + b"\n"])
    assert main(["log", "tail", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert len(said.splitlines()) == 2


def test_links_devices_and_files_beyond_measure_are_no_files_of_a_log(
    folder: Path, tmp_path: Path, verify: Verify
) -> None:
    bundle = folder / "tile/entries/001"
    raw = bundle.read_bytes()
    copy = tmp_path / "copy"
    copy.write_bytes(raw)

    def replaced(make: Callable[[], object]) -> None:
        bundle.unlink()
        make()
        status, said = verify(folder)
        assert (status, said["first_bad"]) == (1, 256)
        assert also(folder) in (1, 3)

    replaced(lambda: bundle.symlink_to(copy))
    replaced(lambda: bundle.symlink_to("/dev/zero"))
    replaced(lambda: os.mkfifo(bundle))

    def sparse() -> None:
        with bundle.open("wb") as file:
            file.truncate(1 << 40)

    replaced(sparse)
    replaced(lambda: bundle.write_bytes(bytes(1 << 20)))
    bundle.unlink()
    bundle.mkdir()
    assert verify(folder)[0] in (1, 3)
    checkpoint = folder / "checkpoint"
    checkpoint.unlink()
    checkpoint.symlink_to("/dev/zero")
    assert verify(folder)[0] == 1
    checkpoint.unlink()
    checkpoint.write_bytes(b"A\n" * (1 << 20))
    assert verify(folder)[0] == 1


def test_a_bundle_that_says_more_than_it_holds_takes_no_memory(
    folder: Path, verify: Verify
) -> None:
    bundle = folder / "tile/entries/001"
    bundle.write_bytes(b"\xff\xff" * 256)
    status, said = verify(folder)
    assert (status, said["first_bad"]) == (1, 256)
    with pytest.raises(Malformed):
        unpack_entries(b"\xff\xff" * 256, 256)


def test_the_longest_entries_are_checked_as_others_are(folder: Path, verify: Verify) -> None:
    longest = [join(logs.header(i), bytes(65_535 - 1 - len(logs.header(i)))) for i in range(300)]
    signed_log(folder, longest)
    status, said = verify(folder)
    assert (status, said["checked"]) == (0, 300)
    assert also(folder) == 0


def test_two_writers_at_once_are_one_writer(tmp_path: Path) -> None:
    kept = KeptCheckpoints()
    one, other = (log_at(tmp_path, kept, origin=logs.ORIGIN, private=logs.LOG_KEY) for _ in "12")
    one.open()
    with pytest.raises(Misconfigured):
        other.open()
    with pytest.raises(Unavailable):
        other.append([ENTRIES[0]])
    one.append(ENTRIES[:300])
    one.close()
    other.open()
    other.append(ENTRIES[300:])
    other.checkpoint()
    other.close()
    (folder,) = (path.parent for path in tmp_path.rglob("checkpoint"))
    assert main(["log", "verify", str(folder), "--key", KEY, "--accounting", "--offline"]) == 0
    assert also(folder) == 0


def test_one_ciphertext_has_one_plaintext() -> None:
    """AES-GCM alone opens one to two texts under two keys; the header names the key's commitment,
    and the same nonce and tag under another key are refused."""
    one, other = SealingKey(bytes(32)), SealingKey(bytes([1]) * 32)
    sealed = one.seal(b"approve", HEADER)
    assert one.open(sealed, HEADER) == b"approve"
    assert one.commitment != other.commitment
    for key, header in ((other, HEADER), (one, HEADER + b" ")):
        with pytest.raises(Corrupt):
            key.open(sealed, header)
