"""One command, one file: wiring and nothing else."""
