"""Rules, thresholds, lists and currency rates: from features and score to an outcome."""
