"""Mutated samples: bytes that were once an event, spoilt in every way that a bridge, a disk or an enemy might find."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from monitor.core.account_settings import AccountSettings
from monitor.core.ledger import Ledger
from monitor.core.pipeline import Checkpoint, Counts, Pipeline, Publish, SetAside, Tuning
from monitor.core.policy import built_in_policy
from monitor.core.verdict import decode_verdict, encode_verdict
from tests.torture.judge import Tally

SAMPLES: Final = Path(__file__).parent.parent / "samples"
_BASE_MS: Final = 1_790_000_000_000
_LOOK_EVERY: Final = 20_000
_OFFSETS_A_MS: Final = 20  # At 50 messages a second of log time, windows open and close all the while.

_STRANGE: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 1, 2**63, -(2**63), 1e308, 5e-324, 0.1, "", " ", "0", "-1", "true", "null", "\x00"),
    *("\ud7ff", "\U0010ffff", "é" * 500, "x" * 3_000, "AC" + "0" * 32, "RE" + "f" * 32, "CF", "CA" * 40, "WT"),
    *("2060-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:60Z", "Thu, 99 Foo 2026 25:61:61 +9999"),
    *("1e400", "NaN", "-Infinity", "99999999999999999999", "PFJlc3BvbnNlPg==", "<Response/>", "{", "[[[[", "{}", "[]"),
    *([], {}, [[]], [{}], {"": ""}, [None] * 50, {"request": None}, {"parameters": []}, {"payload": "{"}),
)


def samples() -> list[bytes]:
    """The sample events and streams, each event as one message."""
    found = [path.read_bytes() for path in sorted(SAMPLES.glob("*.json"))]
    for path in sorted(SAMPLES.glob("scenarios/*.jsonl")):
        found += [line for line in path.read_bytes().splitlines() if line.strip()]
    assert found, "the samples are not there"
    return found


class Mutator:
    """An endless, reproducible row of spoilt messages."""

    def __init__(self, seed: int) -> None:
        self._chance = Random(f"fuzz:{seed}")
        self._samples = samples()
        self._ways: tuple[tuple[Callable[[], bytes], int], ...] = (
            (self._flipped, 3),
            (self._cut, 2),
            (self._spliced, 2),
            (self._grown, 1),
            (self._restructured, 8),
            (self._batched, 2),
            (self._deep, 1),
            (self._noise, 1),
        )

    def next(self) -> bytes:
        """One message: some bytes to some 100 kB."""
        [way] = self._chance.choices([way for way, _ in self._ways], [weight for _, weight in self._ways])
        return way()

    def _flipped(self) -> bytes:
        spoilt = bytearray(self._chance.choice(self._samples))
        for _ in range(self._chance.choice((1, 1, 2, 5, 40))):
            spoilt[self._chance.randrange(len(spoilt))] = self._chance.randrange(256)
        return bytes(spoilt)

    def _cut(self) -> bytes:
        sample = self._chance.choice(self._samples)
        start, end = sorted(self._chance.randrange(len(sample) + 1) for _ in range(2))
        return sample[:start] + sample[end:] if self._chance.random() < 0.7 else sample[start:end]

    def _spliced(self) -> bytes:
        one, other = self._chance.choices(self._samples, k=2)
        return one[: self._chance.randrange(len(one))] + other[self._chance.randrange(len(other)) :]

    def _grown(self) -> bytes:
        sample = self._chance.choice(self._samples)
        at = self._chance.randrange(len(sample))
        return sample[:at] + sample[at : at + 40] * self._chance.randrange(1, 100) + sample[at:]

    def _restructured(self) -> bytes:
        """Still JSON, and mostly what it was: some values are others, gone, renamed, or where they do not belong."""
        document = msgspec.json.decode(self._chance.choice(self._samples))
        for _ in range(self._chance.choice((1, 1, 1, 2, 4))):
            self._change(document)
        try:
            return msgspec.json.encode(document)
        except (ValueError, OverflowError, msgspec.MsgspecError):
            return b"{}"

    def _change(self, document: Any) -> None:
        here = document
        while isinstance(here, dict | list) and here:
            key: Any = self._chance.choice(list(here)) if isinstance(here, dict) else self._chance.randrange(len(here))
            inner = here[key]
            if isinstance(inner, dict | list) and inner and self._chance.random() < 0.9:
                here = inner
                continue
            way = self._chance.random()
            if way < 0.5:
                here[key] = copy.deepcopy(self._chance.choice(_STRANGE))  # Or it would be changed for good.
            elif way < 0.6 and isinstance(here, dict):
                del here[key]
            elif way < 0.7 and isinstance(here, dict):
                here[str(key).swapcase()] = here.pop(key)
            elif way < 0.8:
                here[key] = [inner] * self._chance.randrange(4)
            elif way < 0.9:
                other = msgspec.json.decode(self._chance.choice(self._samples))  # Its own: it may be changed in turn.
                here[key] = other.get("data", other) if isinstance(other, dict) else other
            else:
                here[key] = msgspec.json.encode(inner).decode()
            return

    def _batched(self) -> bytes:
        """A sink's body: an array, of good ones, spoilt ones and what is none."""
        parts = [
            self._chance.choice((self._restructured, self._flipped, lambda: b"null", lambda: b"7", lambda: b"[]"))()
            for _ in range(self._chance.randrange(1, 6))
        ]
        parts.append(self._chance.choice(self._samples))
        separator = self._chance.choice((b",", b"\n", b",,", b" "))
        inside = separator.join(parts)
        return inside if separator == b"\n" else b"[" + inside + b"]"

    def _deep(self) -> bytes:
        depth = self._chance.choice((50, 300, 2_000, 2_000))
        opening, closing = self._chance.choice(((b"[", b"]"), (b'{"data":', b"}")))
        return opening * depth + self._chance.choice((b"1", b"", b'"x"')) + closing * self._chance.choice((depth, 0))

    def _noise(self) -> bytes:
        return self._chance.randbytes(self._chance.choice((0, 1, 7, 300, 4_000)))


def through_core(seed: int, bytes_wanted: int, directory: Path) -> Tally:
    """Feed so many spoilt bytes to one pipeline: it must not raise, and must account for every entry.

    ``harm`` counts messages. A message on which the core raises is kept in ``directory``.
    """
    mutator, chance = Mutator(seed), Random(seed)
    tuning = Tuning(window_ms=600_000, grace_ms=5_000)
    first = Checkpoint(offset=0, generation=1, replay_from=0, log_time_ms=None)
    pipeline = Pipeline(tuning, built_in_policy(), AccountSettings(), partition=0, checkpoint=first)
    pipeline.open(Ledger())
    tally, offset, done, aside, counted = Tally(), 0, 0, 0, Counts()
    keys: set[str] = set()
    while done < bytes_wanted and len(tally.faults) < 20:
        message = mutator.next()
        headers = [(chance.choice(("ce_type", "ce_id", "content-type", "x")), chance.randbytes(9))] * chance.randrange(
            3
        )
        done += len(message)
        try:
            for told in pipeline.feed(offset, _BASE_MS + offset * _OFFSETS_A_MS, message, headers or None):
                if isinstance(told, SetAside):
                    aside += 1
                elif isinstance(told, Publish) and told.verdict is not None:
                    keys.add(told.key)
                    decode_verdict(encode_verdict(told.verdict))
        except Exception as error:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"raised-{offset}.bytes").write_bytes(message)
            tally.faults.append(f"message {offset} of seed {seed}: the core raised {type(error).__name__}")
        offset += 1
        if offset % _LOOK_EVERY == 0 or done >= bytes_wanted:
            _add(counted, pipeline.take_counts())
            accounted = counted.events_total + counted.ignored + counted.malformed + counted.duplicate + counted.late
            if counted.entries != accounted:
                tally.faults.append(f"up to message {offset}: {counted.entries} entries, {accounted} accounted for")
            if aside != counted.malformed:
                tally.faults.append(f"up to message {offset}: {counted.malformed} malformed, {aside} set aside")
    tally.harm, tally.verdicts = offset, len(keys)
    return tally


def _add(total: Counts, more: Counts) -> None:
    for name in ("messages", "entries", "ignored", "malformed", "duplicate", "late"):
        setattr(total, name, getattr(total, name) + getattr(more, name))
    for kind, number in more.events.items():
        total.events[kind] = total.events.get(kind, 0) + number
