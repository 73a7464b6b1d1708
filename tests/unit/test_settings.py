from pathlib import Path

import pytest

from sluice.errors import Misconfigured
from sluice.settings import MASK, describe, load


def test_defaults_are_used_where_nothing_is_said(tmp_path: Path) -> None:
    settings, sources = load({}, tmp_path / "none.yaml")
    assert settings.decider.deadline_ms == 50
    assert sources == {}


def test_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "sluice.yaml"
    file.write_text("decider: {port: 1000, deadline_ms: 20}\n")
    settings, sources = load({"SLUICE_DECIDER_PORT": "2000"}, file)
    assert (settings.decider.port, settings.decider.deadline_ms) == (2000, 20)
    assert sources == {
        "decider.port": "SLUICE_DECIDER_PORT",
        "decider.deadline_ms": str(file),
    }


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("decider: {prot: 1}", "prot"),
        ("store: {budget_ms: fast}", "budget_ms"),
        ("store: {budget_ms: 0}", "budget_ms"),
        ("store: 5", "sections"),
        ("- a", "sections"),
        ("a: [", "YAML"),
        ("nothing: {}", "nothing"),
    ],
)
def test_a_wrong_file_refuses_and_names_the_key(tmp_path: Path, text: str, names: str) -> None:
    file = tmp_path / "sluice.yaml"
    file.write_text(text)
    with pytest.raises(Misconfigured, match=names):
        load({}, file)


def test_an_unknown_variable_refuses(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="SLUICE_DECIDER_PROT"):
        load({"SLUICE_DECIDER_PROT": "1"}, tmp_path / "none.yaml")


def test_a_named_file_that_is_missing_refuses() -> None:
    with pytest.raises(Misconfigured, match="SLUICE_CONFIG"):
        load({"SLUICE_CONFIG": "/nowhere/sluice.yaml"})


def test_secrets_are_masked_and_never_in_an_error(tmp_path: Path) -> None:
    settings, sources = load(
        {"SLUICE_STORE_URL": "redis://:s3cret@h/0", "SLUICE_KAFKA_SASL_PASSWORD": "s3cret"},
        tmp_path / "none.yaml",
    )
    rows = {row.key: row for row in describe(settings, sources)}
    assert rows["store.url"].value == rows["kafka.sasl_password"].value == MASK
    assert all("s3cret" not in row.value for row in rows.values())


def test_every_setting_says_what_it_means(tmp_path: Path) -> None:
    assert all(row.says for row in describe(*load({}, tmp_path / "none.yaml")))
