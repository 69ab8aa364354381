"""Twilio's recordings, as its REST API lists them, and as events of ours.

https://www.twilio.com/docs/voice/api/recording
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from monitor.core.attribution import OVER
from monitor.core.values import epoch_ms
from monitor.core.verdict import render_instant
from monitor.twilio.accounts import TwilioAccount

LISTED: Final = "dev.recording-monitor.recording.listed"
PAGE: Final = 500
"""Recordings asked for at a time. Twilio gives up to 1,000; half of that is read in 30 ms."""


class Recording(msgspec.Struct, frozen=True, gc=False):
    """A recording as REST knows it; instants are Twilio's, in milliseconds, ``duration`` in seconds as text."""

    sid: str
    call_sid: str | None
    conference_sid: str | None
    source: str | None
    status: str | None
    created_ms: int
    started_ms: int | None
    duration: str | None
    channels: int | None
    error_code: int | None

    @property
    def over(self) -> bool:
        """Whether it has ended for good."""
        return self.status in OVER


async def pages(account: TwilioAccount, since_ms: int, until_ms: int | None = None) -> AsyncGenerator[list[Recording]]:
    """Yield pages of an account's recordings, the newest first, deleted ones too, down to those created ``since_ms``.

    While it reads, new ones come in front, so that some are seen twice. ``until_ms`` leaves out later ones. Raises what
    asking Twilio can come to.
    """
    page = await account.client.recordings.page_async(
        # Days are all that Twilio promises to tell apart, and one more costs nothing: what is older ends the reading.
        date_created_after=day_of(since_ms) - timedelta(days=1),
        **({} if until_ms is None else {"date_created_before": day_of(until_ms) + timedelta(days=2)}),
        include_soft_deleted=True,
        page_size=PAGE,
    )
    while page is not None:
        listed = [one for each in page if (one := _recording(each)) is not None]
        yield [one for one in listed if since_ms <= one.created_ms and (until_ms is None or one.created_ms < until_ms)]
        if listed and listed[-1].created_ms < since_ms:
            return
        page = await page.next_page_async()


async def fetch(account: TwilioAccount, sid: str) -> Recording | None:
    """One recording, deleted or not. Raises what asking Twilio can come to; ``NotThere`` where there is none."""
    return _recording(await account.client.recordings(sid).fetch_async(include_soft_deleted=True))


def render_listed(account_sid: str, recording: Recording, now_ms: int, *, however_old: bool = False) -> bytes:
    """A recording as an event. The id follows from what it says, so that it is a duplicate when it is listed again.

    ``however_old``: it is to be judged even if it began so long ago that otherwise it would not be.
    """
    created = render_instant(recording.created_ms)
    data: dict[str, Any] = {
        "account_sid": account_sid,
        "sid": recording.sid,
        "call_sid": recording.call_sid,
        "conference_sid": recording.conference_sid,
        "source": recording.source,
        "status": recording.status,
        "start_time": None if recording.started_ms is None else render_instant(recording.started_ms),
        "date_created": created,
        "duration": recording.duration,
        "channels": recording.channels,
        "error_code": recording.error_code,
    }
    if however_old:
        data["however_old"] = True
    event = {
        "specversion": "1.0",
        "type": LISTED,
        "source": "recording-monitor",
        "id": f"listed:{recording.sid}:{recording.status}:{created}",
        "time": render_instant(now_ms),
        "datacontenttype": "application/json",
        "data": data,
    }
    return msgspec.json.encode(event)


def _recording(listed: Any) -> Recording | None:
    """What Twilio's package made of an answer; None where it lacks what every recording has."""
    if not listed.sid or listed.date_created is None:
        return None
    return Recording(
        listed.sid,
        listed.call_sid or None,
        listed.conference_sid or None,
        listed.source or None,
        listed.status or None,
        epoch_ms(listed.date_created),
        None if listed.start_time is None else epoch_ms(listed.start_time),
        None if listed.duration is None else str(listed.duration),
        listed.channels,
        listed.error_code,
    )


def day_of(ms: int) -> datetime:
    """The beginning of the day, in UTC, that an instant in milliseconds lies in."""
    return datetime.fromtimestamp(ms / 1000, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
