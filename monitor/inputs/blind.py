"""Blind intervals, remembered: messages that were gone from the events topic before they were judged to the end.

Whoever takes over a partition finds them out (`inputs/checkpoint`); log and metrics are gone in a month, when somebody
asks what was not seen in it. So they are told in the topic of account settings as well, one message each, for good.
"""

from __future__ import annotations

from typing import Final

import msgspec

from monitor.core.verdict import render_instant
from monitor.inputs.checkpoint import Blind

BLIND_TYPE: Final = "dev.recording-monitor.blind-interval.found"
_KEY_BEGIN: Final = "blind/"


class BlindInterval(msgspec.Struct, frozen=True, kw_only=True):
    """A ``Blind`` of a partition of an events topic, and when it was found out. What is not known is None."""

    topic: str
    partition: int
    first: int
    end: int
    unjudged: int
    since: str | None
    until: str | None
    found_at: str


class _Event(msgspec.Struct):
    data: BlindInterval


_decode: Final = msgspec.json.Decoder(_Event).decode


def render_blind(topic: str, partition: int, blind: Blind, now_ms: int) -> tuple[str, bytes]:
    """Key and value of what is to be remembered. One that is found again, with more gone by then, takes its place."""
    key = f"{_KEY_BEGIN}{topic}/{partition}/{blind.first}"
    found_at = render_instant(now_ms)
    event = {
        "specversion": "1.0",
        "type": BLIND_TYPE,
        "source": "recording-monitor",
        "id": f"{key}:{blind.end}",
        "time": found_at,
        "data": BlindInterval(
            topic=topic,
            partition=partition,
            first=blind.first,
            end=blind.end,
            unjudged=blind.unjudged,
            since=None if blind.since_ms is None else render_instant(blind.since_ms),
            until=None if blind.until_ms is None else render_instant(blind.until_ms),
            found_at=found_at,
        ),
    }
    return key, msgspec.json.encode(event)


def read_blind(key: str, value: bytes | None) -> BlindInterval | None:
    """What a message of the account settings says of a blind interval; None where it is about something else."""
    if value is None or not key.startswith(_KEY_BEGIN):
        return None
    try:
        return _decode(value).data
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
