"""Judge models by what became known, and release what is no worse: measures, gate, card."""
