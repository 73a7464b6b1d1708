"""Every YAML file that we read is read by one loader, which takes no key twice."""

import ast
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sluice_simulator import config

from sluice import settings, yaml_files
from sluice.adapters.files.mapping import load_labels, load_mapping
from sluice.adapters.identity import clients
from sluice.adapters.policyfiles import read_policy
from sluice.bootstrap import verbs
from sluice.domain.features import catalogue
from sluice.errors import Misconfigured
from tests.support import tree

MAPPING = "authorization_id: {column: id}\nevent_at: {column: t}\nauthorization_id: {column: x}\n"
LABELS = "column: a\ndelay_days: 1\nsource: bank\ncolumn: b\n"
CLIENTS = "clients:\n  - certificate: CN:a\n    tenants: [a]\n    scopes: []\n    tenants: [b]\n"


def policy(path: Path) -> object:
    folder = shutil.copytree("policies/default", path.parent / "pack")
    shutil.copy(path, folder / "fx.yaml")
    return read_policy(folder, catalogue.FEATURES)


READING = re.compile(r"(msgspec\.)?yaml\.(\w*load\w*|decode)")

READERS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a mapping": (lambda path: load_mapping(str(path)), MAPPING, "authorization_id"),
    "a mapping of labels": (lambda path: load_labels(str(path)), LABELS, "column"),
    "settings": (
        lambda path: settings.load({}, path),
        "store: {url: 'redis://a'}\nkafka: {}\nstore: {url: 'redis://b'}\n",
        "store",
    ),
    "clients": (clients.read, CLIENTS, "tenants"),
    "a simulation": (config.load, "cards: 1\ncards: 2\n", "cards"),
    "a release": (
        lambda path: verbs.pack_release(path.parent, path),
        "id: a\nmetrics: {auc: 1, auc: 2}\n",
        "auc",
    ),
    "a policy": (policy, "reference: EUR\nreference: USD\n", "reference"),
}


@pytest.mark.parametrize("what", READERS)
def test_a_key_given_twice_is_refused_by_file_and_key(tmp_path: Path, what: str) -> None:
    read, text, key = READERS[what]
    path = tmp_path / "twice.yaml"
    path.write_text(text)
    with pytest.raises(Misconfigured, match=f"the key {key} is given twice"):
        read(path)


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("raw", [b"\xff\xfe\x00", b"a: [", b"{a: &x 1, b: *x}", b"[" * 99, b"a\0b"])
def test_what_is_no_yaml_of_ours_is_refused_by_file(tmp_path: Path, what: str, raw: bytes) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_bytes(raw)
    with pytest.raises(Misconfigured) as caught:
        READERS[what][0](path)
    assert re.search(r"wrong\.yaml|fx\.yaml", caught.value.where)


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    assert yaml_files.decode(b"\xef\xbb\xbfa: 1\n", "x") == {"a": 1}


def test_no_other_module_reads_yaml() -> None:
    """Neither PyYAML nor msgspec's, whose first of two keys is lost without a word."""
    found = []
    places = ("src", "services", "simulator/src", "models/src", "local")
    for name in tree.files(*places, kinds={".py"}):
        for node in ast.walk(ast.parse(Path(name).read_text())):
            if isinstance(node, ast.Attribute) and READING.fullmatch(ast.unparse(node)):
                found.append(name)
    assert set(found) == {"src/sluice/yaml_files.py"}
