"""A mapping of a small table with columns of its own: id, at, who, cents, fraud."""

from __future__ import annotations

MAPPING = """
authorization_id: {column: id}
event_at: {column: at, zone: UTC}
card_token: {template: "card-{who}"}
merchant_id: {constant: m-1}
terminal_id: {constant: t-1}
mcc: {constant: "5999"}
channel: {constant: pos}
amount: {column: cents, unit: minor}
currency: {constant: EUR}
merchant_country: {constant: PT}
card_country: {constant: PT}
region: {constant: eea}
tenant: {constant: bank}
"""
LABELS = "{column: fraud, delay_days: 1, source: bank}"
