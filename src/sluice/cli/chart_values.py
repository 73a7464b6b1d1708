"""README and schema of the Helm chart, made from its values.yaml and the comments there.

Above a key, ``# --`` begins what is said of it, and ``# @schema {...}`` holds what JSON Schema says
besides its default: ``open: true`` is a map of anything, ``open: string`` one of texts, ``settings:
true`` the services' settings. ``# ##`` begins a section of the README.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from sluice.settings import Settings
from sluice.yaml_files import decode

CHART = Path("charts/sluice")
OF_THE_CHART: dict[str, frozenset[str]] = {
    "kafka": frozenset(Settings().kafka.__struct_fields__),
    "store": frozenset({"url", "ca_file", "cert_file", "key_file"}),
    "decider": frozenset(
        {
            "host", "port", "cert_file", "key_file", "client_ca_file",
            "release_dir", "policy_dir", "trust_dir", "let_through_key",
        }
    ),
    "labeller": frozenset(
        {"host", "port", "cert_file", "key_file", "client_ca_file", "look_up"}
    ),
    "access": frozenset({"mode", "issuer", "audience", "keys", "keys_ca_file", "clients_file"}),
    "storage": frozenset(Settings().storage.__struct_fields__),
    "archiver": frozenset({"root"}),
    "auditor": frozenset(
        {
            "root", "key_file", "make_keys", "environment", "cell", "shard", "shards",
            "witnesses_file", "ca_file", "copy_bucket", "copy_endpoint", "copy_region",
            "copy_retain_days", "time_stamp_url", "time_stamp_roots_file",
        }
    ),
    "keystore": frozenset({"path", "roots", "wrapper", "copies", "grants"}),
    "witness": frozenset(Settings().witness.__struct_fields__),
    "feast": frozenset(Settings().feast.__struct_fields__),
    "service": frozenset({"replica", "admin_host", "admin_port", "log_id_key"}),
}  # fmt: skip
"""Settings that the chart sets itself, or that no service reads: not among ``settings``."""
_TYPES = {str: "string", bool: "boolean", int: "integer", list: "array", dict: "object"}
_KEY = re.compile(r"(?P<indent> *)(?P<key>[^\s#:]+):(?: |$)")
_INTRO = """\
# Sluice, the Helm chart

{description} What is in it and why: [ADR 35](../../docs/decisions/0035-one-chart.md). For Helm 4 \
and Kubernetes {kube}; its versions: [CHANGELOG](CHANGELOG.md).

What must be given: `model.storageUri` or `model.registry`, a key in `trust`, brokers, a store, \
and who may ask. What is missing or misspelt fails before anything is installed, and says what to \
do. [ci/](ci) has whole examples: [default](ci/default.yaml) (the least), [kind](ci/kind.yaml) \
(all of it on one machine), [prod](ci/prod.yaml), [strimzi](ci/strimzi.yaml), \
[deployment](ci/deployment.yaml) (without KServe), [objects](ci/objects.yaml) (archive and \
releases on object storage).

Helm 4's `--wait` waits in vain where KServe serves and an autoscaler has changed the number of \
pods: KServe 0.20 notes the Deployment's generation as the InferenceService's, and Helm takes it \
for one that is not seen yet. And an InferenceService says Ready while a release that cannot serve \
comes up beside the old one. So wait with `--wait=legacy`, which looks at Deployments, \
StatefulSets and Jobs alone, and then for the predictor's own rollout:

```sh
helm upgrade --install sluice charts/sluice --values values.yaml --wait=legacy --timeout 5m
kubectl rollout status deployment/sluice-predictor --timeout 5m
helm test sluice
```

`helm rollback sluice` brings back what was: releases, settings and policies are all values.

No value is a password: secrets are made by whoever has them, and named in values that end in \
`Secret` or `existingSecret`.
"""


@dataclass
class Entry:
    """One key of values.yaml. path: dotted. says: "" where nothing is said. given: of @schema."""

    path: str
    section: str
    says: str
    default: Any
    given: dict[str, Any] = field(default_factory=dict)

    @property
    def leaf(self) -> bool:
        """Whether its value is shown whole: no map, or one that is nobody's parent."""
        return not isinstance(self.default, dict) or not self.default or bool(self.given)


def entries(text: str) -> Iterator[Entry]:
    """Every key that has a line of its own, in order. text: of values.yaml."""
    values = decode(text.encode(), str(CHART / "values.yaml"))
    above: list[tuple[int, str]] = []
    section, said, given = "", "", {}
    closed: int | None = None
    for line in text.splitlines():
        word = line.strip()
        match = _KEY.match(line)
        if word.startswith("# ## "):
            section = word[5:]
        elif word.startswith("# @schema "):
            given = decode(word.removeprefix("# @schema ").encode(), f"{CHART}: {word}")
        elif word.startswith("# -- "):
            said = word[5:]
        elif word.startswith("# ") and said:
            said += " " + word[2:]
        elif match:
            indent = len(match["indent"])
            if closed is not None and indent > closed:
                continue  # inside a value that was shown whole
            closed = None
            above = [(at, key) for at, key in above if at < indent] + [(indent, match["key"])]
            keys = [key for _, key in above]
            default = values
            for key in keys:
                default = default[key]
            entry = Entry(".".join(keys), section, said, default, given)
            if entry.leaf:
                closed = indent
            yield entry
            said, given = "", {}
        elif not word:
            said, given = "", {}


def readme() -> str:
    """charts/sluice/README.md."""
    chart = decode((CHART / "Chart.yaml").read_bytes(), str(CHART / "Chart.yaml"))
    page = "<!-- Made by `sluice reference` from values.yaml. Change it there. -->\n\n"
    page += _INTRO.format(description=chart["description"], kube=chart["kubeVersion"].split("-")[0])
    section = None
    for entry in entries((CHART / "values.yaml").read_text()):
        if not (entry.leaf or entry.says):
            continue
        if entry.section != section:
            section = entry.section
            page += f"\n## {section}\n\n| value | default | |\n| --- | --- | --- |\n"
        default = f"`{json.dumps(entry.default)}`" if entry.leaf else ""
        cells = (f"`{entry.path}`", default, _bounded(entry))
        page += "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
    return page


def _bounded(entry: Entry) -> str:
    low, high = entry.given.get("minimum"), entry.given.get("maximum")
    if low is None:
        return entry.says
    return f"{entry.says} From {low}{'' if high is None else f' to {high}'}."


def schema() -> str:
    """charts/sluice/values.schema.json: closed, so that a misspelt key fails."""
    root: dict[str, Any] = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart sluice",
        "description": "Made by `sluice reference` from values.yaml.",
        **_closed(),
    }
    # Helm gives each chart these of the chart above it.
    root["properties"]["global"] = {"type": "object"}
    for entry in entries((CHART / "values.yaml").read_text()):
        *parents, key = entry.path.split(".")
        at = root
        for parent in parents:
            at = at["properties"][parent]
        at["properties"][key] = _of(entry)
    return json.dumps(root, indent=2, ensure_ascii=False) + "\n"


def _closed() -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": {}}


def _of(entry: Entry) -> dict[str, Any]:
    given = dict(entry.given)
    opened, settings = given.pop("open", None), given.pop("settings", False)
    says = {"description": entry.says} if entry.says else {}
    if settings:
        return says | service_settings()
    if opened is not None:
        of = {"additionalProperties": {"type": "string"}} if opened == "string" else {}
        return says | {"type": "object"} | of
    if not entry.leaf:
        return says | _closed()
    return says | {"type": _TYPES[type(entry.default)]} | given


def service_settings() -> dict[str, Any]:
    """Schema of those settings that a user of the chart may give, by section."""
    made = msgspec.json.schema(Settings)
    definitions = made["$defs"]
    result = _closed()
    for section, reference in definitions["Settings"]["properties"].items():
        part = copy.deepcopy(definitions[reference["$ref"].rsplit("/", 1)[-1]])
        properties = {
            key: value
            for key, value in part["properties"].items()
            if key not in OF_THE_CHART.get(section, ())
        }
        if properties:
            result["properties"][section] = _closed() | {"properties": properties}
    return result
