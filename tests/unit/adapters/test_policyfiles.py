import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from sluice.adapters.policyfiles import PolicyFiles, read_policy
from sluice.domain.features import catalogue
from sluice.domain.records.currencies import ENDED, EXPONENTS
from sluice.errors import Misconfigured
from sluice.testing.factories import make_authorization

DEFAULT = Path("policies/default")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(DEFAULT, tmp_path / "default")


def write(path: Path, text: str) -> None:
    """As an editor or a ConfigMap does: a new file takes the old one's place."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    write(path, text.replace(old, new, 1))


def test_the_default_pack_is_whole_and_knows_every_currency_of_cards() -> None:
    policy = read_policy(DEFAULT, catalogue.FEATURES)
    assert policy.id.startswith("default@")
    assert set(EXPONENTS) - set(policy.fx.rates_ppm) - set(ENDED) == {"XAD"}  # accounting unit


def test_the_default_pack_has_a_last_rate_of_each_currency_that_ended() -> None:
    fx = read_policy(DEFAULT, catalogue.FEATURES).fx
    assert fx.historic.keys() == ENDED.keys()
    assert fx.to_reference(195_583, "BGN") == 100_000
    assert fx.to_reference(753_450, "HRK") == 100_000
    assert 0.5 < fx.to_reference(200_000, "ANG") / 100_000 < 2


def test_the_id_does_not_depend_on_where_the_folder_lies(folder: Path) -> None:
    assert read_policy(folder, catalogue.FEATURES).id == read_policy(DEFAULT, catalogue.FEATURES).id


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("policy.yaml", "version: 1", "version: 1\nversoin: 2", "unknown field `versoin`"),
        ("policy.yaml", "version: 1", "version: 1\nversion: 2", "key version is given twice"),
        (
            "policy.yaml",
            "version: 1",
            "version: one",
            r"Expected `int`, got `str` - at `\$.version`",
        ),
        ("policy.yaml", "outcome: decline", "outcome: refuse", r"at `\$.rules\[0\].outcome`"),
        (
            "policy.yaml",
            "score_ppm: {challenge: ",
            "score_ppm: {challenge: 0.",
            r"at `\$.thresholds.score_ppm",
        ),
        ("policy.yaml", "version: 1", "version: [", "not YAML"),
        ("policy.yaml", "version: 1", "version: !!python/name:os.system x", "not YAML"),
        ("policy.yaml", "lists/blocked-cards.txt", "lists/../../x.txt", "matching regex"),
        ("policy.yaml", "lists/blocked-cards.txt", "lists/none.txt", "none.txt"),
        ("fx.yaml", "reference: EUR", "reference: XYZ", "not an ISO 4217"),
        ("fx.yaml", "EUR: 1000000", "EUR: 1.0", "Expected `int`"),
        # What PyYAML raises of its own: ValueError, OverflowError, IndexError, TypeError.
        ("fx.yaml", "as_of: ", "as_of: 2026-13-45 #", "not YAML: month must be in"),
        ("policy.yaml", "version: 1", f"version: {'1:' * 180}1.5", "not YAML: int too large"),
        ("policy.yaml", "version: 1", "version: !!int ''", "not YAML: .*index out of range"),
        ("policy.yaml", "version: 1", "? [a, b]\n: 1\nversion: 1", "not YAML: .*unhashable"),
        ("policy.yaml", "version: 1", f"version: {'9' * 900}", "version"),
        ("policy.yaml", "version: 1", f"version: {2**64}", "version"),
        ("policy.yaml", "version: 1", f"version: {'1:' * 900}1", "over 1,000 characters"),
        ("policy.yaml", "version: 1", "version: &a 1\nlists: *a", "yaml:[0-9]+; fix: write out"),
        ("policy.yaml", "version: 1", "version: " + "[" * 900_000, "over 20 deep"),
        ("policy.yaml", "version: 1", "version: " + "{a: " * 900, "over 20 deep"),
        ("policy.yaml", "version: 1", f"version: [{'1,' * 30_000}]", "over 20,000 keys"),
        ("policy.yaml", "version: 1", "version: 1 #" + "x" * 1_000_000, "over 1,000,000 bytes"),
    ],
)
def test_a_wrong_file_is_refused_by_file_and_key(
    folder: Path, file: str, old: str, new: str, says: str
) -> None:
    files = PolicyFiles(folder, catalogue.FEATURES)
    good = files.current()
    replace(folder / file, old, new)
    with pytest.raises(Misconfigured, match=says) as at_start:
        read_policy(folder, catalogue.FEATURES)
    with pytest.raises(Misconfigured, match=says) as while_running:
        files.look()
    assert str(at_start.value) == str(while_running.value) == str(files.refused)
    assert at_start.value.code == while_running.value.code
    assert files.look() is None
    assert files.current() is good


def test_what_is_no_file_is_refused_and_not_waited_for(folder: Path) -> None:
    files = PolicyFiles(folder, catalogue.FEATURES)
    (folder / "lists/blocked-cards.txt").unlink()
    os.mkfifo(folder / "lists/blocked-cards.txt")
    for read in (files.look, lambda: read_policy(folder, catalogue.FEATURES)):
        with pytest.raises(Misconfigured, match=r"no regular file; at .*blocked-cards\.txt"):
            read()


def test_a_folder_that_is_mounted_with_links_is_followed(folder: Path) -> None:
    """As Kubernetes mounts a ConfigMap: files are links through a link to a folder."""
    data = folder.parent / "data"
    (folder / "policy.yaml").rename(folder.parent / "policy.yaml")
    data.mkdir()
    (folder.parent / "policy.yaml").rename(data / "policy.yaml")
    (folder / "policy.yaml").symlink_to("../data/policy.yaml")
    files = PolicyFiles(folder, catalogue.FEATURES)
    replace(data / "policy.yaml", "version: 1", "version: 2")
    fresh = files.poll()
    assert fresh is not None
    assert fresh.pack.version == 2


def test_a_list_of_a_hundred_thousand_holds_each_of_them_and_no_other(folder: Path) -> None:
    files = PolicyFiles(folder, catalogue.FEATURES)
    names = [f"tok-{number:x}z" for number in range(100_000)]
    write(folder / "lists/blocked-cards.txt", "\n".join(names))
    fresh = files.poll()
    assert fresh is not None
    assert fresh.id == read_policy(folder, catalogue.FEATURES).id
    auths = [make_authorization("a", card_token=name) for name in (*names[::9_999], "tok-", "tok")]
    rows = np.zeros((len(auths), len(catalogue.FEATURES)), np.int64)
    none = np.zeros(len(auths), np.int64)
    said = fresh.decide(auths, rows, missing=none, level=none + 2, score_ppm=None)
    assert ["CARD_BLOCKED" in reasons for reasons in said.reasons] == [True] * 11 + [False] * 2


def test_a_card_number_in_a_list_is_refused_and_never_repeated(folder: Path) -> None:
    write(folder / "lists/blocked-cards.txt", "# numbers\ntok-1\n4111111111111111\n")
    with pytest.raises(Misconfigured, match=r"blocked-cards.txt:3") as caught:
        read_policy(folder, catalogue.FEATURES)
    assert "4111" not in str(caught.value)


def test_a_list_entry_that_is_no_identifier_is_refused_by_line(folder: Path) -> None:
    write(folder / "lists/blocked-cards.txt", "two words\n")
    with pytest.raises(Misconfigured, match=r"blocked-cards.txt:1"):
        read_policy(folder, catalogue.FEATURES)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"policy\.yaml"):
        PolicyFiles(tmp_path / "none", catalogue.FEATURES)


def test_a_change_is_taken_up_at_the_next_poll(folder: Path) -> None:
    files = PolicyFiles(folder, catalogue.FEATURES)
    before = files.current()
    assert files.poll() is None
    write(folder / "lists/blocked-cards.txt", "card-1 # stolen\n\n")
    fresh = files.poll()
    assert fresh is files.current()
    assert fresh is not None
    assert fresh.id != before.id
    assert files.poll() is None


def test_a_comment_changes_nothing(folder: Path) -> None:
    files = PolicyFiles(folder, catalogue.FEATURES)
    before = files.current()
    replace(folder / "policy.yaml", "version: 1", "version: 1 # as ever")
    assert files.poll() is None
    assert files.current() is before


def test_a_broken_pack_is_refused_once_and_the_last_good_one_stays(folder: Path) -> None:
    files = PolicyFiles(folder, catalogue.FEATURES)
    good = files.current()
    replace(folder / "policy.yaml", "version: 1", "version: none")
    with pytest.raises(Misconfigured, match="version"):
        files.poll()
    assert files.poll() is None
    assert files.current() is good
    assert "version" in str(files.refused)
    replace(folder / "policy.yaml", "version: none", "version: 2")
    assert files.poll() is files.current()
    assert files.refused is None
    assert files.current().pack.version == 2


def test_another_reference_currency_is_refused_while_it_runs(folder: Path) -> None:
    files = PolicyFiles(folder, catalogue.FEATURES)
    good = files.current()
    replace(folder / "fx.yaml", "reference: EUR", "reference: USD")
    text = (folder / "fx.yaml").read_text()
    rates = re.sub(r"\bUSD: \d+", "USD: 1000000", text)
    write(folder / "fx.yaml", rates)
    assert read_policy(folder, catalogue.FEATURES).fx.reference == "USD"
    with pytest.raises(Misconfigured, match="currency is USD, this process decides in EUR"):
        files.poll()
    assert files.current() is good


def test_a_list_that_vanishes_is_refused(folder: Path) -> None:
    files = PolicyFiles(folder, catalogue.FEATURES)
    (folder / "lists/blocked-cards.txt").unlink()
    with pytest.raises(Misconfigured, match=r"blocked-cards\.txt"):
        files.poll()


def test_the_default_fallback_says_what_it_catches() -> None:
    measured = read_policy(DEFAULT, catalogue.FEATURES).pack.fallback.measured
    assert measured is not None
    assert measured.recall_ppm > 300_000
    assert measured.false_positives_per_10k_milli < 60_000
