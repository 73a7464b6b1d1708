"""Refusals as RFC 9457 problem details: one table of codes, and their bytes on the wire."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from sluice.errors import Rejected, SluiceError, Unavailable

PROBLEM_JSON = b"application/problem+json"
RETRY_AFTER_S = 1
"""What is overloaded or in progress elsewhere is usually free again within a second."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What went wrong and what to do, RFC 9457. It never repeats a value that was sent."""

    type: str
    title: str
    status: int
    code: str
    """Stable and bounded; the same word as in metrics and dead letters."""
    detail: str = ""
    fix: str = ""
    error: str = ""
    """Title and detail in one: what clients of the Open Inference Protocol read."""


class Kind(NamedTuple):
    """One row of the table."""

    status: int
    title: str
    fix: str = ""


_FIELD = "docs/reference/authorization.md lists every field with type and bounds"
_CREDENTIAL = "docs/how-to/secure-a-deployment.md says which credentials are taken"
_RETRY = "send the same request again, with the same id, after Retry-After"

KINDS: dict[str, Kind] = {
    "invalid_json": Kind(400, "The body is not JSON", _FIELD),
    "invalid_deadline": Kind(
        400, "The deadline header is wrong", "x-deadline-ms is a whole number, 5 to 1000"
    ),
    "invalid_inference": Kind(
        400, "The inference request is wrong", "GET /v2/models/{name} describes the tensors"
    ),
    "unauthenticated": Kind(401, "Who asks is not known", _CREDENTIAL),
    "invalid_token": Kind(401, "The token does not hold", _CREDENTIAL),
    "insufficient_scope": Kind(403, "The credential does not allow this", _CREDENTIAL),
    "other_tenant": Kind(
        403,
        "The authorization is of another tenant than the credential",
        "send it with a credential of its tenant",
    ),
    "invalid_http": Kind(400, "This is no HTTP/1.1 request", "the connection is closed"),
    "not_on_this_port": Kind(
        403, "This is served on another port", "docs/reference/http.md says which"
    ),
    "not_found": Kind(404, "There is nothing here", "GET /openapi.json lists what there is"),
    "method_not_allowed": Kind(405, "This method is not served here", "see the Allow header"),
    "conflict": Kind(
        409,
        "This id was used for another authorization",
        "an authorization_id names one authorization forever; mint a new id for a new one",
    ),
    "report_conflict": Kind(
        409,
        "This report_id was used for another report",
        "a report_id names one report of its source forever; what changed is a new report",
    ),
    "unknown_authorization": Kind(
        422,
        "No authorization of this id is known",
        "send it again in some minutes, or with card, merchant, terminal and time",
    ),
    "too_large": Kind(413, "The body is too large", _FIELD),
    "unsupported_content_type": Kind(
        415, "The content type is not understood", "send application/json, not compressed"
    ),
    "headers_too_large": Kind(
        431, "The headers are too large", "at most 128 of them and 64 KiB; the connection is closed"
    ),
    "unknown_field": Kind(422, "A field is not in the schema", _FIELD),
    "missing_field": Kind(422, "A required field is missing", _FIELD),
    "duplicate_field": Kind(422, "A field comes twice", "send each field once"),
    "wrong_type": Kind(422, "A field has the wrong type", _FIELD),
    "out_of_range": Kind(422, "A number is out of range", _FIELD),
    "bad_format": Kind(422, "A text has the wrong form", _FIELD),
    "bad_token": Kind(
        422,
        "An id is not made as its tenant's are",
        "send what decider.grammars says, or have it changed there",
    ),
    "unknown_value": Kind(422, "A word is not in its list", _FIELD),
    "unknown_currency": Kind(422, "The currency is unknown", "send an ISO 4217 code"),
    "unknown_country": Kind(422, "The country is unknown", "send an ISO 3166-1 alpha-2 code"),
    "other_region": Kind(
        422, "The authorization is of another region", "send it to the cell of its own region"
    ),
    "card_number": Kind(
        422, "A field holds what looks like a card number", "send the card's token"
    ),
    "event_in_future": Kind(422, "The event is in the future", "check the sender's clock"),
    "event_too_old": Kind(
        422, "The event is too old", "publish history through the stream processor"
    ),
    "invalid": Kind(422, "The authorization is not valid", _FIELD),
    "too_many_requests": Kind(429, "This client asks for too much", _RETRY),
    "internal": Kind(500, "Something broke inside", "see the log for the trace id"),
    "overloaded": Kind(503, "More comes than can be decided in time", _RETRY),
    "busy": Kind(503, "The same authorization is being decided", _RETRY),
    "unrecorded": Kind(503, "The decision could not be recorded", _RETRY),
    "unidentified": Kind(503, "Nobody can say whether this id was decided before", _RETRY),
    "unavailable": Kind(503, "A part that this needs is down", _RETRY),
    "not_ready": Kind(503, "Not ready", _RETRY),
}
"""Every code that an answer can carry; docs/reference/http.md lists them."""
OF_LABELS = ("report_conflict", "unknown_authorization")
"""Those of the labeller alone."""


def problem(code: str, detail: str = "", fix: str = "") -> Problem:
    """The problem of one code; a refusal with a code of its own is a 422."""
    kind = KINDS.get(code, KINDS["invalid"])
    return Problem(
        type=f"urn:sluice:problem:{code}",
        title=kind.title,
        status=kind.status,
        code=code,
        detail=detail,
        fix=fix or kind.fix,
        error=f"{kind.title}: {detail}" if detail else kind.title,
    )


def problem_of(error: SluiceError) -> Problem:
    """The problem that tells an error of ours. Other than a refusal, it names no inner part."""
    if isinstance(error, Rejected):
        detail = f"{error.what} ({error.where})" if error.where else error.what
        return problem(error.code, detail, error.fix)
    if error.code == "overloaded":
        return problem(error.code)
    return problem("unavailable" if isinstance(error, Unavailable) else "internal")


def unforeseen(error: Exception) -> SluiceError:
    """What an error that is none of ours is to its caller: a process at its memory limit has too
    much to do; anything else is a bug."""
    if isinstance(error, SluiceError):
        return error
    if isinstance(error, MemoryError):
        return Unavailable("the process is at service.memory_max_mb", code="overloaded")
    return SluiceError("internal")
