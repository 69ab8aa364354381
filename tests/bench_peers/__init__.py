"""The same simple job in other stream processors: `python -m tests.bench_peers`, called by `make bench-peers`."""
