"""Training: from a history through the serving kernel to a signed release."""
