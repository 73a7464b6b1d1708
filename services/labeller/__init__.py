"""Chargebacks, issuers' reports and verdicts become labels."""
