"""OpenAPI 3.1 of what the sync API answers itself; schemas come from the structs."""

from __future__ import annotations

from typing import Any

import msgspec

from services.decider.problems import KINDS, OF_LABELS, Problem
from sluice import __version__
from sluice.domain.records.authorization import Received
from sluice.domain.records.decision import Answer

_REF = "#/components/schemas/{name}"


def document(model: str, columns: int) -> bytes:
    """The document as JSON. model: its name in the paths; columns: features of a row."""
    (authorization, answer, problem), schemas = msgspec.json.schema_components(
        (Received, Answer, Problem), ref_template=_REF
    )
    tensor: dict[str, Any] = {
        "type": "object",
        "description": "A request of the Open Inference Protocol v2, JSON or binary tensors: "
        f"authorizations BYTES [n]; on the admin port features INT64 [n, {columns}].",
    }

    def problems(*codes: str) -> dict[str, Any]:
        grouped: dict[int, list[str]] = {}
        for code in codes:
            grouped.setdefault(KINDS[code].status, []).append(code)
        return {
            str(status): {
                "description": "; ".join(f"{code}: {KINDS[code].title}" for code in together),
                "content": {"application/problem+json": {"schema": problem}},
            }
            for status, together in grouped.items()
        }

    def ok(description: str, schema: dict[str, Any]) -> dict[str, Any]:
        return {"description": description, "content": {"application/json": {"schema": schema}}}

    anything = {"type": "object"}
    others = ("not_ready", "invalid_inference", "not_found", *OF_LABELS)
    every = [code for code in KINDS if code not in others]
    header = {"in": "header", "required": False}
    paths = {
        "/v1/authorizations": {
            "post": {
                "operationId": "authorize",
                "summary": "Decide one authorization; the same id gets the same answer.",
                "parameters": [
                    {
                        **header,
                        "name": "x-deadline-ms",
                        "description": "What misses it is left out and named in degraded.",
                        "schema": {"type": "integer", "minimum": 5, "maximum": 1000, "default": 50},
                    },
                    {
                        **header,
                        "name": "traceparent",
                        "description": "W3C trace context, carried on; an invalid one is ignored.",
                        "schema": {"type": "string"},
                    },
                ],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": authorization}},
                },
                "responses": {
                    "200": {
                        **ok("The decision, durable before it was sent.", answer),
                        "headers": {
                            "idempotent-replay": {
                                "description": "true if this id was decided before.",
                                "schema": {"type": "string"},
                            }
                        },
                    },
                    **problems(*every),
                },
            }
        },
        f"/v2/models/{model}/infer": {
            "post": {
                "operationId": "infer",
                "summary": "Score feature rows, or decide authorizations.",
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {"schema": tensor},
                        "application/octet-stream": {"schema": {"type": "string"}},
                    },
                },
                "responses": {
                    "200": ok("score_ppm INT64 [n], or answer BYTES [n].", anything),
                    **problems(
                        *("invalid_inference", "not_on_this_port", "too_large", "overloaded"),
                        "unavailable",
                    ),
                },
            }
        },
        "/v2/health/live": {
            "get": {
                "operationId": "live",
                "summary": "The process is up.",
                "responses": {"200": ok("It is.", anything)},
            }
        },
        "/v2/health/ready": {
            "get": {
                "operationId": "ready",
                "summary": "One inference ran within the last second.",
                "responses": {"200": ok("It did.", anything), **problems("not_ready")},
            }
        },
    }
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Sluice decider",
                "version": __version__,
                "description": "Decides card authorizations. Beside these paths it answers "
                "metadata (/v2, /v2/models, /v1/models) and, for operators, metrics and "
                "scores on another port.",
            },
            "paths": paths,
            "components": {"schemas": schemas},
        }
    )
