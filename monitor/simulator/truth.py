"""What really happened, written down before any event of it: the answers a monitor's verdicts are compared with.

The truth of a scene comes from its script (what the simulator decided should happen), never from the events it wrote,
and nothing here knows how the monitor thinks. A truth file is JSON lines: a ``Header`` first, one ``RecordingTruth``
for each recording or suspicion in the order in which their calls began, and, where the run has an end, ``Counts`` last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, Final

import msgspec

UNTOLD_FIELDS: Final = (
    "recording_sid",
    "start_source",
    "cause",
    "outcome",
    "call_sid",
    "conference_sid",
    "started_at",
    "status",
)


class Starter(msgspec.Struct, frozen=True, gc=False):
    """A ``starters`` entry of the monitor's settings: who starts recordings with this callback URL (a glob)."""

    callback_url: str
    cause: str
    name: str


class Header(msgspec.Struct, frozen=True, kw_only=True, tag_field="line", tag="header"):
    """The first line: how the traffic was made, and what the truth takes for granted.

    ``settings`` are the knobs as they were set. The outcomes are those of the built-in policy (only
    ``api_call_recording`` is allowed); the causes hold for a monitor that has ``starters`` in its settings and whose
    ``flex.session_max`` is ``session_max_hours``.
    """

    simulator: int
    seed: int
    bounded: bool
    settings: dict[str, object]
    starters: tuple[Starter, ...]
    session_max_hours: int
    policy: str = "only-explicit-api"


class RecordingTruth(msgspec.Struct, kw_only=True, tag_field="line", tag="recording"):
    """One recording, or one suspicion (a conference that Voice Insights calls recorded, with no recording event).

    ``cause`` None: nobody can know, since the call ran through a Studio flow whose widgets are not known; the outcome
    is then ``undetermined``. ``call_sid`` and ``conference_sid`` are what a monitor that saw everything would say: of
    a conference recording no call, of a call recording the conference the call was in when the recording started,
    else the next it entered, else the last before. ``status`` is the last one told.

    ``untold`` names the fields that the written stream does not tell in full, because Twilio never states them for
    this kind of recording or because an event they rest on was lost: what a monitor says there is not to be compared.
    Where ``recording_sid`` is untold, there may be no verdict at all, or a suspicion about the conference instead.
    ``without_starters``: cause and outcome for a monitor that lacks the header's ``starters``.
    """

    kind: str
    recording_sid: str | None
    account_sid: str
    start_source: str | None
    cause: str | None
    outcome: str
    call_sid: str | None
    conference_sid: str | None
    started_at: str
    status: str | None
    scene: str
    untold: tuple[str, ...] = ()
    without_starters: tuple[str, str] | None = None

    def leave_untold(self, fields: Iterable[str]) -> None:
        """Add ``fields`` to those that the stream does not tell; their order is that of ``UNTOLD_FIELDS``."""
        missing = {*self.untold, *fields}
        self.untold = tuple(field for field in UNTOLD_FIELDS if field in missing)


class Counts(msgspec.Struct, kw_only=True, tag_field="line", tag="counts"):
    """How many entries the run writes, by what becomes of them: entries = events + ignored + malformed + duplicates.

    ``settings`` is how many of the events are our own observations of an account, ``retried`` how many repeat what
    another said under a new id (events like any other). ``lost`` were never written and are in no other number.
    ``calls`` is the number of scenes.
    """

    entries: int = 0
    events: int = 0
    ignored: int = 0
    malformed: int = 0
    duplicates: int = 0
    settings: int = 0
    retried: int = 0
    lost: int = 0
    calls: int = 0
    recordings: int = 0
    suspicions: int = 0


Line = Header | RecordingTruth | Counts

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Line)


def write_line(file: IO[bytes], line: Line) -> None:
    """Append one line of truth; the caller decides when it must be on the disk."""
    file.write(_encoder.encode(line) + b"\n")


def read_truth(lines: Iterable[bytes]) -> Iterator[Line]:
    """Read a truth file back. Raises ``msgspec.DecodeError`` or ``ValidationError`` where a line is none of ours."""
    for line in lines:
        if line.strip():
            yield _decoder.decode(line)
