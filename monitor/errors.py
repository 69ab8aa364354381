"""Errors that are not bugs: what somebody gave us is wrong, or something needed is out of reach."""

from __future__ import annotations


class WrongInput(Exception):
    """Settings, a policy, a file or a command line can't be used. ``str()`` says where, what and the remedy.

    A command exits with code 2. The message was written not to hold secrets.
    """


class OutOfReach(Exception):
    """Something needed (a broker, a topic) does not answer. A command exits with code 3; the monitor tries again."""


class ListenError(OutOfReach):
    """An address cannot be listened on: taken, not ours, or not permitted."""


class OutputUnavailable(OutOfReach):
    """A place verdicts go does not take them now: drop what was not acknowledged, and try again."""
