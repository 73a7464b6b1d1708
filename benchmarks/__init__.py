"""What Sluice costs, measured on this machine: ``make bench``."""
