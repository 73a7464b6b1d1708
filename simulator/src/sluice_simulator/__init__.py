"""A bank's card traffic with known truth."""
