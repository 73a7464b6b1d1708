"""``make demo``: the whole main path on one machine, with traffic, for a minute."""
