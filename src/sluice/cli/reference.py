"""Write the pages of docs/reference that the code itself can tell; --check fails if one is stale.

Metrics, log fields, features, settings, the authorization's fields, and the verbs.
"""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import click
import msgspec

from sluice.cli import VERBS, docstring
from sluice.cli.parameters import FOLDER
from sluice.cli.text import help_of, paragraphs
from sluice.domain.features import catalogue
from sluice.domain.records.authorization import MAX_BODY_BYTES, Authorization
from sluice.settings import PREFIX, Settings
from sluice.telemetry import TABLE, Line

ROOT = Path("docs/reference")
_MADE = "<!-- Made by `sluice reference` from {source}. Change it there. -->\n\n"


@click.command(help=help_of(__doc__))
@click.option("--check", is_flag=True, help="Write nothing, exit 1 if stale.")
@click.option(
    "--root", type=FOLDER, default=ROOT, show_default=True, metavar="DIR", help="Of the pages."
)
def command(check: bool, root: Path) -> int:
    """Write the pages, or name the stale ones."""
    stale = 0
    for name, make in PAGES.items():
        path, text = root / name, make()
        if path.exists() and path.read_text() == text:
            continue
        stale += 1
        if check:
            click.echo(f"{path} is stale: run sluice reference", err=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            click.echo(str(path))
    return 1 if check and stale else 0


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(_cell(c) for c in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _code(text: object) -> str:
    return f"`{text}`" if text not in ("", None) else ""


def metrics() -> str:
    """Every metric, by component."""
    page = _MADE.format(source="src/sluice/telemetry/table.py") + (
        "# Metrics\n\n"
        "Prometheus, on `/metrics` of the sync API and on `service.metrics_port` elsewhere. A "
        "metric appears once it has been used. Labels are bounded words, never identifiers; past "
        "256 label sets a metric counts the rest under `other`. Beside these the sync API shows "
        "KServe's `request_*_seconds` and every process the client's own `process_*` and "
        "`python_*`.\n"
    )
    for component in dict.fromkeys(row.name.split("_")[1] for row in TABLE):
        rows = [row for row in TABLE if row.name.split("_")[1] == component]
        page += f"\n## {component}\n\n" + _table(
            ("name", "kind", "labels", "meaning"),
            [(_code(r.name), r.kind, ", ".join(map(_code, r.labels)), r.meaning) for r in rows],
        )
    page += "\n## Buckets of the histograms\n\n"
    for buckets in dict.fromkeys(row.buckets for row in TABLE if row.buckets):
        names = ", ".join(_code(row.name) for row in TABLE if row.buckets == buckets)
        page += f"- {', '.join(f'{b:g}' for b in buckets)}: {names}\n"
    return page


def log() -> str:
    """Fields of the canonical line, and the shape of other events."""
    hints = get_type_hints(Line, include_extras=True)
    rows = [
        (
            _code(field.name),
            "always" if field.required else "",
            hints[field.name].__metadata__[0].description,
        )
        for field in msgspec.structs.fields(Line)
    ]
    return (
        _MADE.format(source="src/sluice/telemetry/logs.py")
        + (
            "# Log\n\n"
            "JSON, one object a line. No card number can be in it (none enters), and no card "
            "token, amount or customer is written to it.\n\n"
            "## One line an authorization, on stdout\n\n"
            "Written for a batch at once: up to 50 ms after the answer at the sync API, after the "
            "commit at the stream processor. The record is `decisions.v1`; a line may be lost with "
            "its process. A field that is empty is left out.\n\n"
        )
        + _table(("field", "present", "meaning"), rows)
        + (
            "\n## Events of the process, on stderr\n\n"
            "Whatever is logged, by us or by a library, has `at_us`, `level`, `service`, `logger` "
            "and `event`, then fields of its own, and `error` with the traceback where an "
            "exception was at hand.\n"
        )
    )


def features() -> str:
    """The catalogue, by entity."""
    page = _MADE.format(source="src/sluice/domain/features/catalogue.py") + (
        "# Features\n\n"
        f"{catalogue.N} integers, in this order; catalogue digest `{catalogue.DIGEST}`. The unit "
        "says the scale: `_milli` is thousandths, `_ppm` millionths. Served when the entity was "
        "never seen, or its view is missing: the default. The source is the operation and the "
        "kernel's registers it works on: `owner.what` or `owner.what.window`.\n"
    )
    for entity in catalogue.ENTITIES:
        rows = [f for f in catalogue.FEATURES if f.entity == entity]
        page += f"\n## {entity}\n\n" + _table(
            ("#", "name", "unit", "window", "group", "default", "meaning", "source"),
            [
                (
                    str(catalogue.INDEX[f.name]),
                    _code(f.name),
                    f.unit,
                    f.window,
                    f.group,
                    str(f.default),
                    f.description,
                    _code(f.line().split("|", 2)[2].replace("|", " ").strip()),
                )
                for f in rows
            ],
        )
    return page


def settings() -> str:
    """Every key, by section."""
    page = _MADE.format(source="src/sluice/settings.py") + (
        "# Settings\n\n"
        "From the default, then `sluice.yaml` (or the file that `SLUICE_CONFIG` names), then the "
        "environment. An unknown key refuses to start. `sluice config` prints each value and "
        "where it came from.\n"
    )
    for section, kind in get_type_hints(Settings).items():
        hints = get_type_hints(kind, include_extras=True)
        rows = []
        for field in msgspec.structs.fields(kind):
            says = hints[field.name].__metadata__[0]
            bounds = _bounds({"minimum": says.ge, "maximum": says.le})
            variable = f"{PREFIX}{section}_{field.name}".upper()
            default = _code(field.default) or "empty"
            rows.append((_code(field.name), _code(variable), default, bounds, says.description))
        page += f"\n## {section}\n\n{(kind.__doc__ or '').splitlines()[0]}\n\n" + _table(
            ("key", "variable", "default", "bounds", "meaning"), rows
        )
    return page


def authorization() -> str:
    """Fields of the message we judge, with type and bounds."""
    _, components = msgspec.json.schema_components([Authorization])
    schema = components["Authorization"]
    rows = []
    for name, spec in schema["properties"].items():
        rows.append(
            (
                _code(name),
                "yes" if name in schema["required"] else "",
                *_kind(spec, components),
            )
        )
    return (
        _MADE.format(source="src/sluice/domain/records/authorization.py")
        + (
            "# Authorization, version 1\n\n"
            f"JSON, UTF-8, at most {MAX_BODY_BYTES:,} bytes. The schema is closed: a field that is "
            "not here is refused. Money is integer minor units of an ISO 4217 currency, countries "
            "are ISO 3166-1 alpha-2, time is integer microseconds since 1970 UTC and at most 35 "
            "days old or 5 minutes ahead (`decider.max_event_age_s`, `decider.max_event_ahead_s`). "
            "A value that looks like a card number (13 to 19 digits that pass Luhn, alone or in "
            "groups) is refused in any field.\n\n"
        )
        + _table(("field", "required", "type", "bounds"), rows)
    )


def _kind(spec: dict[str, Any], components: dict[str, Any]) -> tuple[str, str]:
    options = [o for o in spec.get("anyOf", [spec]) if o.get("type") != "null"]
    (option,) = options
    if "$ref" in option:
        option = components[option["$ref"].rsplit("/", 1)[-1]]
    if "enum" in option:
        return "one of", ", ".join(_code(value) for value in option["enum"])
    return option["type"], _bounds(option)


def _bounds(spec: dict[str, Any]) -> str:
    said = {
        "minimum": "at least {}",
        "maximum": "at most {}",
        "minLength": "from {} characters",
        "maxLength": "to {} characters",
        "pattern": "`{}`",
    }
    return ", ".join(
        text.format(spec[key]) for key, text in said.items() if spec.get(key) is not None
    )


def verbs() -> str:
    """Every verb that this version has, its help and options as click has them."""
    page = _MADE.format(source="src/sluice/cli/") + (
        "# Verbs\n\n"
        "`sluice VERB`; `--help` after a verb or an action says what is here. Exit status: 0 done, "
        "1 failed, 64 wrong usage, 78 wrong configuration, 130 interrupted. Completion of verbs "
        "and options: [how to](../how-to/complete-verbs.md).\n"
    )
    for verb, module in sorted(VERBS.items()):
        command: click.Command = importlib.import_module(module).command
        page += f"\n## {verb}\n\n{_fenced(docstring(module))}"
        page += _command(command, f"sluice {verb}")
    return page


def _fenced(doc: str) -> str:
    """A docstring's paragraphs as Markdown; examples become blocks."""
    return "\n".join(
        f"```sh\n{textwrap.dedent(text)}\n```\n" if text.startswith(" ") else f"{text}\n"
        for text in paragraphs(doc)
    )


def _command(command: click.Command, path: str) -> str:
    context = click.Context(command, info_name=path)
    if isinstance(command, click.Group):
        return "".join(
            f"\n### {path} {name}\n\n{one.help}\n" + _command(one, f"{path} {name}")
            for name, one in command.commands.items()
        )
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and "--help" not in parameter.opts:
            rows.append((_code(record[0]), record[1]))
    return f"\n`{usage}`\n" + ("\n" + _table(("option", "meaning"), rows) if rows else "")


PAGES: dict[str, Callable[[], str]] = {
    "metrics.md": metrics,
    "log.md": log,
    "features.md": features,
    "settings.md": settings,
    "authorization.md": authorization,
    "verbs.md": verbs,
}
"""File name and what makes its text."""
