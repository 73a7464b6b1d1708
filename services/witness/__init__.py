"""A witness cosigns the checkpoints of logs that only ever grow."""
