"""Write the pages of docs/reference that the code itself can tell; --check fails if one is stale.

Metrics, alerts, log fields, features, settings, the authorization's fields, the language of
mappings, and the verbs; also the Helm chart's README and schema, from its values.
"""

from __future__ import annotations

import importlib
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import click
import msgspec

from sluice.bootstrap import verbs as parts
from sluice.cli import VERBS, chart_values, docstring
from sluice.cli.output import say
from sluice.cli.parameters import FOLDER
from sluice.cli.record_pages import log_records
from sluice.cli.text import help_of, paragraphs
from sluice.domain.features import catalogue
from sluice.domain.records.authorization import MAX_BODY_BYTES, Authorization, ScaExemption
from sluice.domain.records.currencies import MINOR_MAX, UNITS_MAX
from sluice.domain.sca import ARTICLES, MEANINGS
from sluice.settings import PREFIX, Settings
from sluice.telemetry import SHOWN_BY, TABLE, Line
from sluice.yaml_files import decode

ROOT = Path("docs/reference")
ALERTS = Path("charts/sluice/alerts")
_LABEL = re.compile(r"\{\{ \$labels\.(\w+) \}\}")
_VALUE = re.compile(r"\{\{ \$value [^}]*\}\}")
_MADE = "<!-- Made by `sluice reference` from {source}. Change it there. -->\n\n"


@click.command(help=help_of(__doc__))
@click.option("--check", is_flag=True, help="Write nothing, exit 1 if stale.")
@click.option(
    "--root", type=FOLDER, default=ROOT, show_default=True, metavar="DIR", help="Of the pages."
)
@click.option(
    "--chart",
    type=FOLDER,
    default=chart_values.CHART,
    show_default=True,
    metavar="DIR",
    help="Of the chart's two files.",
)
def command(check: bool, root: Path, chart: Path) -> int:
    """Write the pages, or name the stale ones."""
    stale = 0
    pages = {root / name: make for name, make in PAGES.items()}
    pages |= {chart / name: make for name, make in OF_THE_CHART.items()}
    for path, make in pages.items():
        text = make()
        if path.exists() and path.read_text() == text:
            continue
        stale += 1
        if check:
            say(f"{path} is stale: run sluice reference", err=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            say(str(path))
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
        "Prometheus, on `/metrics` of `service.admin_port`. A metric appears once it has been "
        "used; the counters of what goes wrong show 0 from the start, so that the first time is a "
        "rise. Labels are bounded words, never identifiers; past 256 label sets a metric counts "
        "the rest under `other`. Beside these the sync API shows KServe's "
        "`request_predict_seconds` and every process the client's own `process_*` and `python_*`.\n"
    )
    for component in dict.fromkeys(row.name.split("_")[1] for row in TABLE):
        rows = [row for row in TABLE if row.name.split("_")[1] == component]
        shown_by = ", ".join(SHOWN_BY[component])
        page += f"\n## {component}\n\nShown by: {shown_by}.\n\n" + _table(
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
            "JSON, one object a line, ASCII alone: what a stranger wrote is escaped, and acts on "
            "no terminal. No card number is in it, as far as [none enters]"
            "(../how-to/keep-card-numbers-out.md), and no card token, amount or customer is "
            "written to it. Of a library's error, 13 digits and more are left out.\n\n"
            "## One line an authorization, on stdout\n\n"
            "Written for a batch at once: up to 50 ms after the answer at the sync API, after the "
            "commit at the stream processor. The record is `decisions.v1`; a line may be lost with "
            "its process. A field that is empty is left out.\n\n"
            "A refusal, a decline and a decision that lacked a part (a degradation, or a view) "
            "always have their line. Of the usual ones, at most `service.log_lines_per_s` a "
            "second are written and at most the share `service.log_sample_ppm`: at full rate all "
            "of them would be 10 MB/s; by default a replica writes 10 kB/s, 0.9 GB a day, whatever "
            "its rate. What always has its line is not bounded: while the store is away every "
            "decision lacks a part, 10 MB/s at 20,000 decisions/s. So let the log be rotated by "
            "size; the kubelet does by default (`containerLogMaxSize` 10 MiB, "
            "`containerLogMaxFiles` 5), Docker's `json-file` does not. Which ones is decided by "
            "the hash of the id, so that replicas at one share write of the same authorizations "
            "and a smaller share is part of a larger one. `sample_ppm` is the share: to count, "
            "let each line stand for `1000000 / sample_ppm`. What was left out is counted in "
            "`sluice_decider_log_lines_total`.\n\n"
        )
        + _table(("field", "present", "meaning"), rows)
        + (
            "\n## The lines of an id\n\n"
            "An authorization's id does not stand in the log, but a name made of it with the "
            "secret `service.log_id_key`: the first 32 hex digits of HMAC-SHA256. Who has the "
            "secret finds the lines:\n\n"
            "```sh\n"
            'printf %s "$ID" | openssl dgst -sha256 -hmac "$KEY" -r | cut -c 1-32\n'
            "```\n\n"
            "Give all replicas the same secret, or an id has another name at each. Without one a "
            "process makes its own when it starts: lines can be counted, and nobody finds an "
            "id's.\n"
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
                    _code(f.source),
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
        "where it came from.\n\n"
        "Kubernetes tells every pod of the Services beside it. A Service whose name begins with "
        "`sluice` is told of in variables of this prefix (`SLUICE_PREDICTOR_PORT=tcp://...`, "
        "`..._SERVICE_HOST`, `..._SERVICE_PORT`, `..._PORT_80_TCP_ADDR`): they are no settings, "
        "and ignored. A variable of that shape counts as one only if a Service's URL is given "
        "beside it and its value is what Kubernetes puts there, so `SLUICE_DECIDER_PORT=8080` is "
        "read, `SLUICE_DECIDER_PORT=tcp://10.0.0.1:80` ignored (and told: `service_link` in the "
        "log), and a misspelt setting refused.\n"
    )
    for section, kind in get_type_hints(Settings).items():
        hints = get_type_hints(kind, include_extras=True)
        rows = []
        for field in msgspec.structs.fields(kind):
            says = hints[field.name].__metadata__[0]
            bounds = _bounds({"minimum": says.ge, "maximum": says.le})
            variable = f"{PREFIX}{section}_{field.name}".upper()
            given = field.default if field.default is not msgspec.NODEFAULT else ""
            default = _code(given) or "empty"
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
            "not here is refused ([how one is added](../how-to/change-a-contract.md)). "
            "Money is integer minor units of an ISO 4217 currency, at most "
            f"{UNITS_MAX:,} units and {len(str(MINOR_MAX))} digits; a currency that ended is taken "
            "for what was paid before. Countries "
            "are ISO 3166-1 alpha-2, time is integer microseconds since 1970 UTC and at most 35 "
            "days old or 5 minutes ahead (`decider.max_event_age_s`, `decider.max_event_ahead_s`). "
            "A value in which a card number may stand, in clear or encoded, is refused in any "
            "field; long ids of digits are declared first "
            "([how](../how-to/keep-card-numbers-out.md)). Digits are 0 to 9.\n\n"
        )
        + _table(("field", "required", "type", "bounds"), rows)
        + (
            "\n## sca_exemption\n\n"
            "Why strong customer authentication was not asked for, as the payee's or payer's "
            "provider applied it: an exemption of Delegated Regulation (EU) 2018/389 by its "
            "article, or what lies outside its scope. No feature reads it; it is for the "
            "compliance log and [its report](../how-to/report-psd2.md). Where authentication took "
            "place it is absent.\n\n"
        )
        + _table(
            ("value", "article", "meaning"),
            [(_code(str(one)), str(ARTICLES.get(one, "")), MEANINGS[one]) for one in ScaExemption],
        )
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


_MAPPING = {
    "text": "Any other field",
    "event_at": "event_at",
    "amount": "amount",
    "rows": "Rows",
    "labels": "Labels",
    "label_file": "Label file",
}


def mapping() -> str:
    """What a mapping of a firm's own columns can say, and the bundled ones."""
    language = parts.mapping_language()
    required = ", ".join(
        _code(f.encode_name)
        for f in msgspec.structs.fields(Authorization)
        if f.required and f.name not in {"event_at", "amount_minor"}
    )
    page = _MADE.format(source="src/sluice/adapters/files/") + (
        "# Mappings\n\n"
        "A mapping says how the rows of a firm's own table become authorizations, for `sluice "
        "publish` and `sluice backfill` ([how to](../how-to/publish-your-history.md)): a YAML "
        "file, or the name of a bundled one. Its keys are the fields of an [authorization]"
        f"(authorization.md), `event_at` and `amount` among them; {required} are needed. Keys "
        "that say how a CSV is written stand beside them ([files of rows](files.md#csv)). What "
        'YAML would take for something else is put in quotes: `"05"`, `"NO"`, '
        '`origin: "2026-01-01T00:00:00Z"`.\n\n'
        "A cell that cannot be read makes its row bad, told by line and column and without its "
        "value. Nothing is guessed: no mark, no unit, no zone, no meaning of a flag.\n"
    )
    for key, kind, told_elsewhere in language.tables:
        hints = get_type_hints(kind, include_extras=True)
        rows = []
        for field in msgspec.structs.fields(kind):
            if field.name in told_elsewhere:
                continue
            says = hints[field.name].__metadata__[-1]
            default = "needed" if field.required else _default(field.default)
            rows.append((_code(field.name), default, says.description))
        head = (kind.__doc__ or "").replace("\n    ", "\n").strip()
        page += f"\n## {_MAPPING[key]}\n\n{head}\n\n" if key != "rows" else "\n## Rows\n\n"
        page += _table(("key", "default", "meaning"), rows)
    words = ", ".join(f"`{word}`" for word in language.empty_words)
    page += (
        "\n## Empty\n\n"
        "Empty in every column, in small letters and capitals too: a cell without a text, null "
        f"and NaN of parquet, and {words}. Not where the field's own table or the mapping's "
        "`values` have the word: `NA` is Namibia in a country, and no device.\n"
        "\n## Types\n\n"
        "Of parquet, texts and bytes that are UTF-8 are texts, without white space around them; "
        "other bytes, lists and structures are refused. A float stands for the shortest number "
        "that prints it: 19.99 of 32 bits is 19.99. Where it is so large that its type leaves out "
        "numbers (whole ones from 2^53, or 2^24 of 32 bits; cents from 131,072.00 of 32 bits) it "
        "is refused. A column of times needs no `format`, one of dates is midnight.\n"
        "\n## Tokens\n\n"
        "`hash: tok_` makes `tok_` + base64url(HMAC-SHA-256(key, text))[:24]: the first 18 bytes "
        "of the hash. The text is the cell, or what the template makes of several, in UTF-8. The "
        "key is what the file of `--token-key` holds, without the white space around it:\n\n"
        "```sh\n"
        "openssl rand -hex 32 > token.key\n"
        'printf %s "$TEXT" | openssl dgst -sha256 -hmac "$(cat token.key)" -binary \\\n'
        "  | head -c 18 | base64 | tr +/ -_\n"
        "```\n\n"
        "The same key and text make the same token in each file and [at the edge]"
        "(../how-to/keep-card-numbers-out.md#make-tokens-at-the-edge); another key makes others. "
        "Nobody without the key can try all card numbers, and who has it can: keep it as a "
        "password, and keep it. The digest in a dead letter is, where the mapping hashes, of the "
        "row's keyed hash: a plain one could be tried through.\n"
        "\n## Bundled\n\n"
        "Of tables that many know; the tables themselves are not ours to give. What a table lacks "
        "is made up as said, and features that stand on it mean nothing.\n"
    )
    for name, said in language.bundled:
        if not name.endswith("-labels"):
            labels = dict(language.bundled)[f"{name}-labels"]
            page += f"\n### {name}\n\n" + "\n\n".join([*said, f"`{name}-labels`: {labels[0]}"])
            page += "\n"
    return page


def _default(value: object) -> str:
    if value is None or value in ("", ()):
        return ""
    if isinstance(value, tuple):
        value = list(value)
    return _code(msgspec.json.encode(value).decode().strip('"'))


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


def alerts() -> str:
    """Every alert rule, by what it watches."""
    page = _MADE.format(source=f"{ALERTS}/") + (
        "# Alerts\n\n"
        f"Prometheus rules in `{ALERTS}/`, made of [our metrics](metrics.md). `page` is worth "
        "waking somebody, `ticket` is for the next working day. They ask nothing of the scrape "
        "but the usual labels `job` and `instance`. Why a threshold is what it is, is said in the "
        "rules; `tests/deploy/alerts/` has for each a case in which it fires and one in which it "
        "is silent.\n"
    )
    for file in sorted(ALERTS.glob("*.yaml")):
        rules = [
            rule
            for group in decode(file.read_bytes(), str(file))["groups"]
            for rule in group["rules"]
        ]
        page += f"\n## {file.stem}\n\n" + _table(
            ("alert", "severity", "after", "means", "runbook"),
            [
                (
                    _code(rule["alert"]),
                    rule["labels"]["severity"],
                    rule.get("for", "at once"),
                    _said(rule["annotations"]),
                    "[{0}](../runbooks/{0})".format(Path(rule["annotations"]["runbook_url"]).name),
                )
                for rule in rules
            ],
        )
    return page


def _said(annotations: dict[str, str]) -> str:
    text = "{summary}. {description}".format(**annotations)
    return _VALUE.sub("N", _LABEL.sub(r"(\1)", text)).replace("((", "(").replace("))", ")")


PAGES: dict[str, Callable[[], str]] = {
    "metrics.md": metrics,
    "log.md": log,
    "features.md": features,
    "settings.md": settings,
    "authorization.md": authorization,
    "log-records.md": lambda: (
        _MADE.format(source="src/sluice/domain/records/log_record.py") + log_records()
    ),
    "mapping.md": mapping,
    "verbs.md": verbs,
    "alerts.md": alerts,
}
"""File name and what makes its text."""
OF_THE_CHART: dict[str, Callable[[], str]] = {
    "README.md": chart_values.readme,
    "values.schema.json": chart_values.schema,
}
