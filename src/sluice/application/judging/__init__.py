"""Judge models by what became known, and let through what is no worse: measures, gate, card."""
