"""What a page names exists: settings, metrics, verbs, reason codes, files, links with anchors.

Of pages that are written by hand. Console blocks are run by ``tests/e2e/test_documents.py``.
"""

from __future__ import annotations

import importlib
import math
import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import get_type_hints

import click
import msgspec
import pytest

from sluice.cli import ELSEWHERE, verbs
from sluice.cli.chart_values import entries
from sluice.domain.policy.reasons import BY_CODE
from sluice.settings import PREFIX, Settings
from sluice.telemetry import TABLE
from tests.support import tree

GENERATED = "<!-- Made by"
LISTED = tree.files()
FOLDERS = {str(parent) for name in LISTED for parent in Path(name).parents}
ALL_PAGES = {
    name: Path(name).read_text()
    for name in LISTED
    if name.endswith(".md") and not name.startswith("models/releases/")
}
PAGES = {name: text for name, text in ALL_PAGES.items() if not text.startswith(GENERATED)}
HISTORY = ("CHANGELOG.md", "docs/decisions/")
"""Pages that also tell of what was: they may name what is gone."""
TODAY = {name: text for name, text in PAGES.items() if not name.startswith(HISTORY)}
SECTIONS = get_type_hints(Settings)
KEYS = {
    f"{section}.{field.name}"
    for section, kind in SECTIONS.items()
    for field in msgspec.structs.fields(kind)
}
VALUES = {
    ".".join(entry.path.split(".")[:2])
    for entry in entries((tree.ROOT / "charts/sluice/values.yaml").read_text())
}
"""Of the chart, whose sections have the names of settings' sections at times."""
VARIABLES = {f"{PREFIX}{key.replace('.', '_')}".upper() for key in KEYS}
METRICS = {row.name for row in TABLE}
PARTS_OF_HISTOGRAMS = ("_bucket", "_count", "_sum")
PACKAGES = {"sluice_models", "sluice_simulator"}
FILES_ALIKE = re.compile(r"\.(py|ya?ml|md|log|json|txt)$")
SOURCES = "\n".join(
    Path(name).read_text()
    for name in LISTED
    if re.search(r"\.(py|yaml|toml)$|Makefile|Dockerfile", name)
)
DAGS = set(re.findall(r'dag_id="(\w+)"', SOURCES))
LINK = re.compile(r"\]\(([^)\s]+)\)")


HALF_TYPED = {"sluice st", "sluice states rebuild --"}
"""Of the page on completion."""
MADE = re.compile(r"/\.|NAME|^application/(json|problem)")
"""Environments, placeholders, media types: no paths of the tree."""


def spans(text: str) -> list[str]:
    """Everything in back quotes on one line; fences are left out."""
    outside = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", outside)


def anchors(text: str) -> set[str]:
    """GitHub's anchor of each heading."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in kept}


def is_metric(name: str) -> bool:
    whole = {name, *(name.removesuffix(part) for part in PARTS_OF_HISTOGRAMS)}
    return bool(whole & METRICS) or name in PACKAGES | DAGS


def constants(name: str) -> set[float]:
    """Values that modules give a name, as products of numbers."""
    products = re.findall(rf"^{name} = ([\d_. *]+)$", SOURCES, re.MULTILINE)
    return {math.prod(float(part) for part in product.split("*")) for product in products}


def verb(name: str) -> click.Command | None:
    """Of this environment or another; those of another load nothing that this one lacks."""
    if name in ELSEWHERE:
        folder = Path(ELSEWHERE[name])
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        module = project["entry-points"]["sluice.verbs"][name]
        if str(folder / "src") not in sys.path:
            sys.path.append(str(folder / "src"))
        return importlib.import_module(module).command
    return importlib.import_module(verbs()[name]).command if name in verbs() else None


def wrong_in(command: str) -> str | None:
    """What `sluice ...` says that no verb has."""
    words = shlex.split(command.replace("'", ""), comments=True)[1:]
    known: click.Command | None = None
    for word in words:
        name, _, _ = word.partition("=")
        if known is None:
            if name.startswith("-"):
                continue
            known = verb(name)
            if known is None:
                return name
        elif isinstance(known, click.Group) and re.fullmatch(r"[a-z-]+", name):
            if name == "--help":
                continue
            if name not in known.commands:
                return name
            known = known.commands[name]
        elif name.startswith("--"):
            options = {opt for p in known.params for opt in [*p.opts, *p.secondary_opts]}
            if name not in options | {"--help"}:
                return name
    return None


@pytest.mark.parametrize("page", TODAY)
def test_settings_that_a_page_names_exist(page: str) -> None:
    said = [s for s in spans(TODAY[page]) if re.fullmatch(r"[a-z]+\.[a-z_]+", s)]
    ours = {s for s in said if s.split(".")[0] in SECTIONS and s not in KEYS | VALUES}
    assert not [s for s in ours if not FILES_ALIKE.search(s)]


@pytest.mark.parametrize("page", TODAY)
def test_a_setting_is_named_and_its_value_left_to_the_reference(page: str) -> None:
    beside = re.findall(
        r"`([a-z]+\.[a-z_]+)`(?: \| |, | \(|: | is )(?:an hour|[\d,.]+ (?:s|ms|h)\b)", TODAY[page]
    )
    assert not set(beside) & KEYS


@pytest.mark.parametrize("page", TODAY)
def test_metrics_that_a_page_names_exist(page: str) -> None:
    said = re.findall(r"(?<![\w/.])sluice_[a-z_]*[a-z](?![\w*])", TODAY[page])
    assert not {name for name in said if not is_metric(name)}


@pytest.mark.parametrize("page", TODAY)
def test_verbs_that_a_page_names_exist(page: str) -> None:
    commands = [s for s in spans(TODAY[page]) if re.match(r"(\./)?sluice [a-z-]", s)]
    commands = [s for s in commands if s not in HALF_TYPED]
    assert not {wrong_in(command) for command in commands} - {None}


@pytest.mark.parametrize("page", TODAY)
def test_names_in_capitals_exist(page: str) -> None:
    """Reason codes, constants of the code, variables: `CARD_TESTING`, `SWAPS_MAX`."""
    said = {s for s in spans(TODAY[page]) if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", s)}
    variables = {s for s in said if s.startswith(PREFIX)}
    assert not variables - VARIABLES - {s for s in variables if s in SOURCES}
    assert not {s for s in said - variables if s not in BY_CODE and s not in SOURCES}


@pytest.mark.parametrize("page", TODAY)
def test_constants_in_tables_are_what_the_code_says(page: str) -> None:
    """Rows as `| `ROLL_BYTES` | 64 MiB ... |`; of a name that two modules have, one must fit."""
    for name, number, unit in re.findall(
        r"^\| `([A-Z_]+)` \| ([\d,.]+)(?: (MiB|KiB))?", TODAY[page], re.MULTILINE
    ):
        said = float(number.replace(",", "")) * {"MiB": 2**20, "KiB": 2**10}.get(unit, 1)
        assert said in constants(name), f"{name}: {constants(name)}"


@pytest.mark.parametrize("page", TODAY)
def test_paths_that_a_page_names_exist(page: str) -> None:
    said = [s for s in spans(TODAY[page]) if re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?", s)]
    tops = {name.split("/")[0] for name in LISTED}
    near = [Path(page).parent, Path(), Path("src/sluice")]
    missing = {
        s
        for s in said
        if s.split("/")[0] in tops | {"domain", "application", "adapters"}
        and not MADE.search(s)
        and not any(str(at / s) in FOLDERS or str(at / s) in LISTED for at in near)
    }
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    broken = []
    for link in LINK.findall(PAGES[page]):
        if link.startswith(("http://", "https://")):
            continue
        to, _, anchor = link.partition("#")
        target = (
            Path(page).parent.joinpath(to).resolve().relative_to(Path.cwd()) if to else Path(page)
        )
        found = str(target) in LISTED or str(target) in FOLDERS
        if not found or (anchor and anchor not in anchors(ALL_PAGES[str(target)])):
            broken.append(link)
    assert not broken


def test_the_checks_find_what_is_not_there() -> None:
    """Else a page could name anything."""
    assert wrong_in("./sluice states rebuild --in-vain") == "--in-vain"
    assert wrong_in("sluice meter") == "meter"
    assert wrong_in("sluice states rebuild --archive /mnt") is None
    assert not is_metric("sluice_meter_waiting")
    assert is_metric("sluice_consistency_waiting")
    assert constants("ROLL_BYTES") == {64 * 2**20}
    assert anchors("## What a mapping can say, `x`\n") == {"what-a-mapping-can-say-x"}
    assert spans("`a`\n```text\n`b`\n```\n`c`") == ["a", "c"]


def test_the_index_lists_every_page() -> None:
    """Of decisions their own index does."""
    for index in ("docs/README.md", "docs/decisions/README.md"):
        folder = Path(index).parent
        listed = {str(folder / link) for link in LINK.findall(PAGES[index])}
        under = {name for name in ALL_PAGES if name.startswith(f"{folder}/")} - {index}
        if index == "docs/README.md":
            under = {n for n in under if not n.startswith("docs/decisions/0")}
        assert not under - listed
