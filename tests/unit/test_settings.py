import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.errors import Misconfigured
from sluice.settings import (
    MASK,
    Settings,
    describe,
    digest_of,
    load,
    service_links,
    settings_told_as_links,
)

NOWHERE = Path("/nowhere/sluice.yaml")
SETTINGS = [
    f"SLUICE_{section}_{field.name}".upper()
    for section in Settings.__struct_fields__
    for field in msgspec.structs.fields(type(getattr(Settings(), section)))
]


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
        {
            "SLUICE_STORE_URL": "redis://:s3cret@h/0",
            "SLUICE_KAFKA_SASL_PASSWORD": "s3cret",
            "SLUICE_SERVICE_LOG_ID_KEY": "s3cret",
        },
        tmp_path / "none.yaml",
    )
    rows = {row.key: row for row in describe(settings, sources)}
    for key in ("store.url", "kafka.sasl_password", "service.log_id_key"):
        assert rows[key].value == MASK
    assert all("s3cret" not in row.value for row in rows.values())


def test_grammars_stand_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "sluice.yaml"
    file.write_text('decider: {grammars: {"bank.card_token": "tok_[0-9a-f]{32}"}}\n')
    settings, sources = load({}, file)
    assert settings.decider.grammars == {"bank.card_token": "tok_[0-9a-f]{32}"}
    rows = {row.key: row for row in describe(settings, sources)}
    assert "tok_[0-9a-f]{32}" in rows["decider.grammars"].value
    with pytest.raises(Misconfigured, match="grammars"):
        load({"SLUICE_DECIDER_GRAMMARS": "tok_[0-9]{4}"}, file)


def test_every_setting_says_what_it_means(tmp_path: Path) -> None:
    assert all(row.says for row in describe(*load({}, tmp_path / "none.yaml")))


# ---------------------------------------------------------------- Services of the namespace


def env(word: str) -> str:
    return re.sub("-", "_", word.upper())


def told_by_kubernetes(
    service: str, address: str, ports: list[tuple[str, str, int]]
) -> dict[str, str]:
    """What the kubelet puts into a pod for a Service: envvars.FromServices, in our words.

    ports: protocol, name ("" for none) and number. The first one is the Service's port.
    """
    name = env(service)
    host = f"[{address}]" if ":" in address else address
    told = {f"{name}_SERVICE_HOST": address, f"{name}_SERVICE_PORT": str(ports[0][2])}
    told |= {f"{name}_SERVICE_PORT_{env(word)}": str(number) for _, word, number in ports if word}
    for i, (protocol, _, number) in enumerate(ports):
        url = f"{protocol}://{host}:{number}"
        if i == 0:
            told[f"{name}_PORT"] = url
        prefix = f"{name}_PORT_{number}_{protocol.upper()}"
        told |= {
            prefix: url,
            f"{prefix}_PROTO": protocol,
            f"{prefix}_PORT": str(number),
            f"{prefix}_ADDR": address,
        }
    return told


LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,12}[a-z0-9])?", fullmatch=True)
WORD = st.sampled_from(
    [
        *("port", "service", "host", "tcp", "80", "addr", "proto", "service-host", "service-port"),
        *("port-80-tcp", "decider", "service-metrics", "predictor", "next-predictor"),
    ]
)
NAME = st.one_of(
    st.just("sluice"),
    st.builds("sluice-{}".format, st.one_of(LABEL, WORD)),
    st.builds("sluice-{}-{}".format, WORD, WORD),
)
PORTS = st.lists(
    st.tuples(
        st.sampled_from(["tcp", "udp", "sctp"]),
        st.one_of(st.just(""), LABEL, WORD),
        st.integers(1, 65_535),
    ),
    min_size=1,
    max_size=3,
)
ADDRESS = st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str))
SERVICE = st.builds(told_by_kubernetes, NAME, ADDRESS, PORTS)


@given(st.lists(SERVICE, min_size=1, max_size=3))
def test_whatever_services_a_namespace_holds_the_settings_are_the_same(
    services: list[dict[str, str]],
) -> None:
    links = {name: value for service in services for name, value in service.items()}
    assert load(links, NOWHERE) == load({}, NOWHERE)


@given(SERVICE, st.sampled_from(SETTINGS))
def test_a_setting_is_read_among_links_unless_it_is_one(links: dict[str, str], name: str) -> None:
    value = links.get(name, "1")
    if name in links and "://" in value:
        assert name in service_links(links)
    else:
        assert name not in service_links(links | {name: value})


@given(SERVICE)
def test_a_port_that_the_pod_sets_itself_is_read_though_a_service_has_its_name(
    links: dict[str, str],
) -> None:
    own = told_by_kubernetes("sluice-decider", "10.0.0.1", [("tcp", "", 80)])
    settings, _ = load(links | own | {"SLUICE_DECIDER_PORT": "9000"}, NOWHERE)
    assert settings.decider.port == 9000
    assert load(links | own, NOWHERE)[0].decider.port == 8080


def test_a_link_with_the_name_of_a_setting_is_told() -> None:
    links = {
        "SLUICE_SERVICE_ADMIN_PORT": "tcp://10.0.0.1:80",
        "SLUICE_SERVICE_ADMIN_SERVICE_PORT": "80",
        "SLUICE_DECIDER_PORT": "8081",
        "SLUICE_PREDICTOR_PORT": "tcp://10.0.0.2:80",
    }
    assert settings_told_as_links(links) == ["SLUICE_SERVICE_ADMIN_PORT"]
    settings, sources = load(links, NOWHERE)
    assert (settings.service.admin_port, settings.decider.port) == (9090, 8081)
    assert "service.admin_port" not in sources
    with pytest.raises(Misconfigured, match="SLUICE_PREDICTOR_HOST is no setting"):
        load(links | {"SLUICE_PREDICTOR_HOST": "x"}, NOWHERE)


@given(SERVICE, st.sampled_from(SETTINGS), st.integers(0, 40), st.sampled_from("AXZ_"))
def test_a_misspelt_setting_is_refused_among_links(
    links: dict[str, str], name: str, at: int, letter: str
) -> None:
    at = len("SLUICE_") + at % (len(name) - len("SLUICE_") + 1)
    wrong = f"{name[:at]}{letter}{name[at:]}"
    for value in ("1", "x", "10.0.0.1"):
        with pytest.raises(Misconfigured, match=f"{wrong} is no setting"):
            load(links | {wrong: value}, NOWHERE)


@pytest.mark.parametrize(
    "alone",
    [
        {"SLUICE_SERVICE_PORT": "9090"},
        {"SLUICE_DECIDER_SERVICE_HOST": "10.0.0.1"},
        {"SLUICE_SERVICE_PORT_METRICS": "9090"},
        {"SLUICE_PREDICTOR_PORT": "80"},
        {"SLUICE_PREDICTOR_PORT": "tcp://somewhere:80"},
        {"SLUICE_PREDICTOR_PORT": "http://10.0.0.1:80"},
        {"SLUICE_PREDICTOR_PORT": "tcp://10.0.0.1:80/x"},
        {"SLUICE_PREDICTOR_PORT_80_TCP_NAME": "tcp://10.0.0.1:80"},
        {"SLUICE_X_PORT": "tcp://10.0.0.1:80", "SLUICE_X_SERVICE_HOST": "localhost"},
        {"SLUICE_X_PORT": "tcp://10.0.0.1:80", "SLUICE_X_SERVICE_PORT": "80 "},
        {"SLUICE_X_PORT": "tcp://10.0.0.1:80", "SLUICE_Y_SERVICE_PORT": "80"},
        {"SLUICE_X_PORT": "tcp://10.0.0.1:80", "SLUICE_X_PORT_80_TCP_PROTO": "http"},
    ],
)
def test_what_looks_like_a_link_and_is_none_is_refused(alone: dict[str, str]) -> None:
    with pytest.raises(Misconfigured, match="is no setting"):
        load(alone, NOWHERE)


def test_a_setting_with_the_value_of_a_link_and_not_its_name_is_a_value() -> None:
    url = "tcp://10.0.0.1:80"
    settings, _ = load({"SLUICE_KAFKA_BOOTSTRAP": url}, NOWHERE)
    assert settings.kafka.bootstrap == url


def test_the_digest_tells_settings_apart_and_secrets_do_not_count() -> None:
    def digest(**variables: str) -> str:
        return digest_of(load({f"SLUICE_{k}": v for k, v in variables.items()}, NOWHERE)[0])

    assert digest() == digest() != digest(DECIDER_PORT="9999")
    a, b = (digest(SERVICE_LOG_ID_KEY=char * 32) for char in "ab")
    assert a == b != digest()
