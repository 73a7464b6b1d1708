from datetime import date
from pathlib import Path

import pytest
from sluice_simulator.config import Config, load

from sluice.errors import Misconfigured


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "world.yaml"
    path.write_text(text)
    return path


def test_a_file_is_read_and_the_command_line_goes_over_it(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "cards: 500\nfraud_bp: 30\ncampaigns: {card_testing: 1}\n"
        "drift: [{since: 2026-10-01, kind: low_and_slow, weight: 10}]\n",
    )
    config = load(path, cards=None, fraud_bp=5.0)
    assert (config.cards, config.fraud_bp) == (500, 5.0)
    assert config.drift[0].since == date(2026, 10, 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cardz: 5", "cardz"),
        ("campaigns: {card_tasting: 1}", "card_tasting"),
        ("cards: 5", "cards"),
        ("cards: [", "not YAML"),
        ("remote_delay: {hours: 1, days: 1, weeks: 0, never: 0}", "sum to 2"),
        ("regions: {eea: 0}", "every weight is 0"),
        ("just words", "object"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_the_key(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(Misconfigured, match=says) as caught:
        load(written(tmp_path, text))
    assert caught.value.where.endswith("world.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"no\.yaml"):
        load(tmp_path / "no.yaml")


def test_the_digest_tells_configurations_apart() -> None:
    assert Config().digest() == Config(cards=10_000).digest()
    assert Config().digest() != Config(cards=10_001).digest()
