"""What can be out of reach. Errors of ours that are neither wrong settings nor a wrong policy nor a bug."""

from __future__ import annotations


class OutOfReach(Exception):
    """Something needed (a broker, a topic) does not answer. A command exits with code 3; the monitor tries again."""


class OutputUnavailable(OutOfReach):
    """A place verdicts go does not take them now: drop what was not acknowledged, and try again."""
