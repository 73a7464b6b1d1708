"""The page of the compliance log's records, from the records themselves."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection
from typing import Any

import msgspec

from sluice.application.never_logged import FOUND
from sluice.domain.records.log_record import CONTRACT, TYPES, AnyRecord

_REF = re.compile(r".*/")
_HEAD = f"""# Records of the compliance log

An entry of the log is one line of JSON, the header, then a newline, then what is sealed, which \
may be nothing. The header is a record of \
[`{CONTRACT}`](../../contracts/{CONTRACT}.schema.json): compact, UTF-8, keys in the order of \
this page, whole numbers alone, no key twice. An entry that says the same in another way is no \
entry. The leaf's hash is over the whole entry, so it stays provable when the key of what is \
sealed is gone ([ADR 48](../decisions/0048-what-the-log-says.md)).

## What is in clear, and what is sealed

In clear is what an auditor counts by: ids, places, versions, outcomes, codes, amounts in the \
reference currency. `authorization_id` names a message and no person; `subject` is a keyed hash \
of the card token that nobody repeats without the keystore's secret. The versions of states say \
which decision of the same card, terminal or merchant came before. All this stays after an \
erasure.

Sealed is what is about a person: of a decision its `authorization`, `features` and `pending`, \
as the bytes that `decisions.v1` has; of a label its card token, merchant, terminal, device and \
the source's own id of the report. Sentences that people wrote (why a release may decide, an \
error's text) are not in the log; their SHA-256 is.

## What is never in it

Looked for in every key and text of an entry before it is sealed, as it is and percent- or \
base64-encoded: {", ".join(f"`{kind}`" for kind in FOUND)}. A record in which one is found is \
not logged. Its offset becomes a `gap` with the reason `forbidden_content` and what was found, \
and is counted; the record itself stays in its topic for as long as that keeps it. Not found is \
what looks like any id: an unlabelled verification value, an encrypted PIN block in hex, a \
secret with no name before it.

## Every record

"""
WRITTEN = {
    "decision": "for each record of `decisions.v1`.",
    "label": "for each record of `labels.v1`.",
    "override": "by `sluice log override`, from the keystore, which a person or their case tool \
calls. The answer was given and is not changed by it. What an analyst found an authorization to be \
is another thing (`label`, kind `verdict`).",
    "model": "before the first `rollout` by which a decider says that it obeys this activation; \
once a log, however many deciders do and however often they start.",
    "policy": "as `model`.",
    "threshold": "before the `rollout` by which a decider says that it decides by a policy, where \
that is another one than in the threshold record before. Every decision names its own thresholds \
(`policy`), whatever this says.",
    "rollout": "for each record of `rollouts.v1`: each step of a release beside others, and what \
each decider decides by, with its start and with each change, signed or not.",
    "access": "by `sluice log open`, from the keystore, before anything is opened.",
    "admin": "for what a named person did with a verb: `sluice dead-letters redrive` (action \
`redrive`, target the message's origin; from `dead-letters.v1`), `sluice log keys expire` \
(`expire_keys`, from the keystore), and with `--who` and `--case` `sluice topics apply` \
(`apply_topics`) and `sluice retention` (`retention`), whose detail is the SHA-256 of the lines \
that say what is done. A rollback, a reset of the breaker and the like are signed, so \
they are a `model` or `policy` record with that `act`. What is done without a verb, or \
without those two options, is not here: keep the audit logs of brokers and cluster for it.",
    "heartbeat": "every 5 seconds by the auditor.",
    "time_sync": "by the auditor at its start and every 10 minutes: what the kernel says of its \
clock (adjtimex).",
    "gap": "by the auditor, where an offset or a number has no record.",
    "duplicate": "for a second record of an id in `decisions.v1`, and a redelivery in \
`dead-letters.v1`.",
    "dead_letter": "for every other record of `dead-letters.v1`.",
    "erasure": "by `sluice log erase`, from the keystore.",
    "hold": "by `sluice log hold` and `unhold`, from the keystore.",
    "key_rotation": "by the auditor at its start, where its own key or a witness's is another \
one than before (`auditor.retired_keys_file`, `auditor.witnesses_file`); by `sluice log keys \
rewrap`, from the keystore.",
    "log_start": "by the auditor, at each start and after each error.",
    "log_stop": "by the auditor as it ends.",
}
"""By type: who writes it, and when."""


def log_records() -> str:
    """Every type, its fields and their shapes."""
    _, components = msgspec.json.schema_components([AnyRecord])
    some = components["HeartbeatRecord"]["properties"]
    every = {k: v for k, v in some.items() if k not in {"type", "body"}}
    page = _HEAD + _fields(every, every)
    page += "\n`type` says which `body` it has:\n"
    parts: list[str] = []
    for word, record in TYPES.items():
        name = _REF.sub("", components[record.__name__]["properties"]["body"]["$ref"])
        page += f"\n## {word}\n\n" + _part(components[name], f"Written {WRITTEN[word]}\n\n")
        parts += _refs(components[name])
    page += "\n# Parts\n"
    seen = ["Source", "Sealed", *parts]
    for name in seen:  # a part's own parts come behind it
        seen += [one for one in _refs(components[name]) if one not in seen]
    for name in dict.fromkeys(seen):
        if components[name].get("type") == "object" and not name.endswith("Body"):
            page += f"\n## {name}\n\n" + _part(components[name])
    return page


def _part(spec: dict[str, Any], written: str = "") -> str:
    first, _, rest = spec["description"].partition("\n")
    told = f"{first}\n{textwrap.dedent(rest)}".strip().replace("``", "`")
    return f"{told}\n\n{written}" + _fields(spec["properties"], spec["required"])


def _fields(properties: dict[str, Any], required: Collection[str]) -> str:
    rows = "".join(
        f"| `{name}` | {_shape(spec)}{'' if name in required else ', or left out'} |\n".replace(
            "\\n", "\\\\n"
        )
        for name, spec in properties.items()
    )
    return "| field | holds |\n| --- | --- |\n" + rows


def _shape(spec: dict[str, Any]) -> str:
    if "anyOf" in spec:
        return " or ".join(_shape(one) for one in spec["anyOf"])
    if "$ref" in spec:
        name = _REF.sub("", spec["$ref"])
        return f"[{name}](#{name.lower()})" if name not in _ENUMS else _shape(_ENUMS[name])
    if "enum" in spec:
        return ", ".join(f"`{value}`" for value in spec["enum"])
    if spec["type"] == "array":
        if "prefixItems" in spec:
            return "pairs of numbers"
        return f"list of at most {spec['maxItems']}: {_shape(spec['items'])}"
    if spec["type"] == "string":
        return "`" + spec["pattern"].replace("|", "\\|").removesuffix("(?!\\n)") + "`"
    if spec["type"] == "integer":
        return f"{spec['minimum']:,} to {spec['maximum']:,}"
    return str({"null": "null", "boolean": "true or false"}[spec["type"]])


def _refs(spec: Any) -> list[str]:
    if isinstance(spec, dict):
        own = [_REF.sub("", spec["$ref"])] if isinstance(spec.get("$ref"), str) else []
        return own + [name for value in spec.values() for name in _refs(value)]
    return [name for value in spec for name in _refs(value)] if isinstance(spec, list) else []


_ENUMS = {
    name: spec
    for name, spec in msgspec.json.schema_components([AnyRecord])[1].items()
    if "enum" in spec
}
