"""Whole monitors on a real broker, mistreated in every way the documentation speaks of, and one table of what became.

    python -m tests.torture                      every row in full (about an hour on four cores)
    python -m tests.torture --quick              every row, small (a few minutes)
    python -m tests.torture --row kill-two       one row; --seed and --histories choose which of its histories

A history is a function of its seed: the traffic, and which fault comes when. (When exactly a fault meets a process is
the machine's affair: a seed brings back the plan, not the interleaving.) What came of it is judged from outside:
`judge` reads the verdict topic, the group's commits and the simulator's truth, and nothing of the monitor.
"""
