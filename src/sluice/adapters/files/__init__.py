"""Files of other firms and of ours."""
