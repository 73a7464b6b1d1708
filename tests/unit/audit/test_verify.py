"""A whole log checked in one pass: every byte of it counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from sluice.audit.checkpoints import Checkpoint
from sluice.audit.errors import Malformed, Tampered
from sluice.audit.tiles import Read, Tile, pack_entries
from sluice.audit.verify import check_grown, verified_bundles
from tests.support.logs import ORIGIN, tree_files
from tests.support.merkle import tree_hash

COUNT = 1_000
ENTRIES = [f"entry {i}".encode() for i in range(COUNT)]
FILES, ROOT = tree_files(ENTRIES)
NOW = Checkpoint(ORIGIN, COUNT, ROOT)


def reading(files: dict[str, bytes]) -> Read:
    def read(path: str) -> bytes:
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    return read


def of(size: int) -> Checkpoint:
    return Checkpoint(ORIGIN, size, tree_hash(ENTRIES[:size]))


def passed(
    files: dict[str, bytes],
    now: Checkpoint = NOW,
    since: Checkpoint | None = None,
    known: Sequence[Checkpoint] = (),
) -> list[bytes]:
    found = []
    for first, entries in verified_bundles(reading(files), now, since, known):
        assert first == len(found) + (since.size if since else 0)
        found += entries
    return found


def bad(*args: object, **more: object) -> tuple[int, int]:
    with pytest.raises(Tampered) as caught:
        passed(*args, **more)  # type: ignore[arg-type]
    return caught.value.first, caught.value.until


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 512, 1000])
def test_a_whole_log_gives_back_its_entries(size: int) -> None:
    files, root = tree_files(ENTRIES[:size])
    assert root == of(size).root
    known = [of(n) for n in (0, 1, 100, 255, 256, 257, 999) if n <= size]
    assert passed(files, of(size), known=known) == ENTRIES[:size]
    for since in known:
        assert passed(files, of(size), since=since, known=known) == ENTRIES[since.size : size]


def test_a_log_that_grew_is_checked_by_tiles_that_are_whole_by_now() -> None:
    for size in (300, 256):
        then = {name: raw for name, raw in tree_files(ENTRIES[:size])[0].items() if "/1/" in name}
        assert passed(FILES | then, of(size)) == ENTRIES[:size]


def test_every_flipped_byte_of_a_thousand_entries_is_caught_at_its_entry() -> None:
    """Each byte of each bundle and tile, some 50,000; 8 s, for a byte that was left out is the one
    that an attacker takes. A pass begins at the bundle's own checkpoint: what is before is equal.
    """
    starts = [of(first) for first in range(0, COUNT, 256)]
    checked = 0
    for path, raw in FILES.items():
        for at in range(len(raw)):
            changed = bytearray(raw)
            changed[at] ^= 1 << at % 8
            tile, first, until = _place(path, at)
            found = bad({**FILES, path: bytes(changed)}, since=starts[tile])
            assert first <= found[0] < found[1] <= until, (path, at, found)
            checked += 1
    assert checked == sum(map(len, FILES.values()))


def _place(path: str, at: int) -> tuple[int, int, int]:
    """Tile of level 0, and the entries that a byte of a file is of."""
    parts = path.removesuffix(".p/232").removesuffix(".p/3").split("/")
    if parts[1] == "1":
        tile = at // 32
        return tile, tile * 256, tile * 256 + 256
    tile = int(parts[2])
    if parts[1] == "0":
        index = tile * 256 + at // 32
        return tile, index, index + 1
    end = 0
    for index in range(tile * 256, COUNT):
        end += 2 + len(ENTRIES[index])
        if at < end:
            # Behind a length that is wrong nothing else can be told apart.
            return tile, index, min(tile * 256 + 256, COUNT)
    raise AssertionError(at)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda e: e[:600] + e[601:], id="delete"),
        pytest.param(lambda e: [*e[:600], b"another", *e[600:]], id="insert"),
        pytest.param(lambda e: [*e[:600], e[601], e[600], *e[602:]], id="reorder"),
        pytest.param(lambda e: [*e[:600], e[599], *e[600:]], id="duplicate"),
        pytest.param(lambda e: [*e[:600], b"another", *e[601:]], id="replace"),
    ],
)
def test_entries_that_were_moved_are_caught_at_the_first(
    change: Callable[[list[bytes]], list[bytes]],
) -> None:
    changed = change(ENTRIES)
    bundles = dict(FILES)
    for index in range(4):
        tile = Tile(0, index, min(256, COUNT - index * 256))
        bundles[tile.entries_path] = pack_entries(changed[index * 256 :][: tile.width])
    assert bad(bundles)[0] == 600
    # All of the tree made anew, under the checkpoint that was signed.
    rebuilt, _ = tree_files((changed * 2)[:COUNT])
    assert bad(rebuilt) == (0, COUNT)
    assert bad(rebuilt, known=[of(599)]) == (599, COUNT)
    assert bad(rebuilt, known=[of(700)]) == (0, 700)
    assert bad(rebuilt, since=of(512)) == (512, COUNT)


def test_a_log_that_lost_its_end_is_caught_at_what_is_missing() -> None:
    files, _ = tree_files(ENTRIES[:700])
    assert passed(files, of(700)) == ENTRIES[:700]
    assert bad(files, of(700), known=[NOW]) == (700, COUNT)
    assert bad(files, of(700), since=NOW) == (700, COUNT)
    assert bad(files)[0] <= 700, "the checkpoint still tells of them"


@pytest.mark.parametrize("path", sorted(FILES))
def test_a_file_that_is_missing_or_cut_is_caught_where_it_begins(path: str) -> None:
    without = {name: raw for name, raw in FILES.items() if name != path}
    _, first, _ = _place(path, 0)
    assert bad(without)[0] == first
    for cut in (b"", FILES[path][:-1], FILES[path] + b"\0"):
        found, _ = bad({**FILES, path: cut})
        assert first <= found < first + 768


def test_the_two_ends_of_a_fork_are_no_beginnings_of_each_other() -> None:
    forked = [*ENTRIES[:500], b"another", *ENTRIES[501:]]
    files, root = tree_files(forked)
    check_grown(reading(FILES), of(300), NOW)
    check_grown(reading(FILES), NOW, of(300))
    check_grown(reading(files), of(300), Checkpoint(ORIGIN, COUNT, root))
    for shown in (FILES, files):
        with pytest.raises(Tampered):
            check_grown(reading(shown), of(600), Checkpoint(ORIGIN, COUNT, root))
    with pytest.raises(Tampered):
        check_grown(reading(FILES), NOW, Checkpoint(ORIGIN, COUNT, root))


def test_what_cannot_be_read_is_no_verdict() -> None:
    def broken(path: str) -> bytes:
        raise PermissionError(path)

    with pytest.raises(PermissionError):
        list(verified_bundles(broken, NOW))


def test_what_is_no_file_of_a_log_is_caught_where_it_would_be() -> None:
    def linked(path: str) -> bytes:
        if path == "tile/entries/001":
            raise Malformed("a link")
        return FILES[path]

    with pytest.raises(Tampered, match="a link") as caught:
        list(verified_bundles(linked, NOW))
    assert caught.value.first == 256
