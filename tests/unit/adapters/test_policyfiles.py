import re
import shutil
from pathlib import Path

import pytest

from sluice.adapters.policyfiles import PolicyFiles, read_policy
from sluice.domain.features import catalogue
from sluice.domain.records.currencies import EXPONENTS
from sluice.errors import Misconfigured

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
    assert set(EXPONENTS) - set(policy.fx.rates_ppm) == {"XAD"}  # an accounting unit


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
    ],
)
def test_a_wrong_file_is_refused_by_file_and_key(
    folder: Path, file: str, old: str, new: str, says: str
) -> None:
    replace(folder / file, old, new)
    with pytest.raises(Misconfigured, match=says):
        read_policy(folder, catalogue.FEATURES)


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
