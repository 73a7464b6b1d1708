"""Helm and the schemas of Kubernetes, for tests of another environment: a question a line, as JSON.

Run by ``tests.support.helm`` with the Python of tests/deploy/.venv.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import helm_python as helm
import jsonschema
import kubernetes_validate
import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def render(chart: str, values: dict[str, Any], **where: str) -> dict[str, str]:
    """Text of each template. Raises HelmError with what the chart says."""
    return helm.Chart.load(chart).render(values, **where)


def lint(chart: str, values: dict[str, Any]) -> list[str]:
    """What is wrong, warnings too."""
    report = helm.lint(chart, values, strict=True)
    said = [f"{m['path']}: {m['error']}" for m in report["messages"] if m["severity"] >= 2]
    return report["errors"] + said


def kubernetes(version: str, objects: list[dict[str, Any]]) -> list[str]:
    """What a Kubernetes of this version would not take, unknown fields too."""
    wrong = []
    for one in objects:
        try:
            kubernetes_validate.validate(one, version, strict=True)
        except (
            kubernetes_validate.ValidationError,
            kubernetes_validate.SchemaNotFoundError,
        ) as error:
            wrong.append(f"{one['kind']} {one['metadata']['name']}: {error}")
    return wrong


def custom(crd: str, objects: list[dict[str, Any]]) -> list[str]:
    """The same of custom resources by their definition."""
    kind, schemas = _schemas(crd)
    wrong = []
    for one in objects:
        version = one["apiVersion"].rpartition("/")[2]
        if one["kind"] != kind or version not in schemas:
            wrong.append(f"{one['apiVersion']} {one['kind']} is not in {crd}")
            continue
        for error in schemas[version].iter_errors(one):
            path = "/".join(map(str, error.absolute_path))
            wrong.append(f"{kind} {one['metadata']['name']} at {path}: {error.message[:300]}")
    return wrong


@functools.cache
def _schemas(crd: str) -> tuple[str, dict[str, Any]]:
    with Path(crd).open() as file:
        spec = yaml.load(file, LOADER)["spec"]
    schemas = {}
    for version in spec["versions"]:
        schema = _closed(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        schemas[version["name"]] = jsonschema.Draft7Validator(schema)
    return spec["names"]["kind"], schemas


def _closed(schema: Any) -> Any:
    """What is not listed is no field: the API server would drop it, and say nothing."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: {name: _closed(one) for name, one in value.items()}
        if key == "properties"
        else value
        if key in ("default", "enum", "description", "x-kubernetes-validations")
        else _closed(value)
        for key, value in schema.items()
    }
    if made.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if made.get("x-kubernetes-preserve-unknown-fields"):
        return made
    if "properties" in made and made.get("type") == "object":
        made.setdefault("additionalProperties", False)
    return made


def main() -> None:
    """Answer until the questions end."""
    known = {"render": render, "lint": lint, "kubernetes": kubernetes, "custom": custom}
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"answer": known[asked.pop("ask")](**asked)}
        except helm.HelmError as error:
            answer = {"refused": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
