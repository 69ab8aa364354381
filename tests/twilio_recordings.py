"""Recordings, conferences and calls in the stand-in for Twilio: what reconciliation and enrichment ask for.

Importing this module adds its endpoints to `tests/twilio_server.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, overload

from tests.twilio_server import Account, Answer, Asked, Refusal, TwilioServer, endpoint, page, rfc2822

CREATED = "_created"


class Many(Sequence[dict[str, Any]]):
    """So many recordings of an account, the newest first, a second apart: made when they are listed."""

    def __init__(self, account_sid: str, count: int, newest: datetime) -> None:
        self._account_sid = account_sid
        self._count = count
        self._newest = newest

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, at: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, at: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(self._count))]
        created = self._newest - timedelta(seconds=at)
        return recording(self._account_sid, f"RE{at:032x}", created, call_sid=f"CA{at:032x}")


def recording(
    account_sid: str,
    sid: str,
    created: datetime,
    *,
    source: str = "DialVerb",
    status: str = "completed",
    duration_s: int | None = 30,
    call_sid: str | None = None,
    conference_sid: str | None = None,
) -> dict[str, Any]:
    """A recording as REST shows it: https://www.twilio.com/docs/voice/api/recording."""
    return {
        "sid": sid,
        "account_sid": account_sid,
        "api_version": "2010-04-01",
        "call_sid": call_sid,
        "conference_sid": conference_sid,
        "source": source,
        "status": status,
        "date_created": rfc2822(created),
        "date_updated": rfc2822(created + timedelta(seconds=duration_s or 0)),
        "start_time": rfc2822(created),
        "duration": "-1" if duration_s is None else str(duration_s),
        "channels": 1,
        "price": None,
        "price_unit": "USD",
        "error_code": None,
        "encryption_details": None,
        "subresource_uris": {},
        "uri": f"/2010-04-01/Accounts/{account_sid}/Recordings/{sid}.json",
    }


def put_recording(server: TwilioServer, account_sid: str, sid: str, created: datetime, **said: Any) -> dict[str, Any]:
    """Put a recording into an account; ``said`` as for ``recording``."""
    return server.put(account_sid, "recordings", {**recording(account_sid, sid, created, **said), CREATED: created})


def put_many(server: TwilioServer, account_sid: str, count: int, newest: datetime) -> None:
    """Have an account list so many recordings: it can be asked for nothing but all of them."""
    server.put(account_sid, "many recordings", {"sid": "many", "listed": Many(account_sid, count, newest)})


def put_conference(
    server: TwilioServer, account_sid: str, sid: str, name: str, created: datetime, *, calls: Iterable[str] = ()
) -> None:
    """Put a conference into an account, with the calls that are in it since it began."""
    uri = f"/2010-04-01/Accounts/{account_sid}/Conferences/{sid}"
    server.put(
        account_sid,
        "conferences",
        {
            "sid": sid,
            "account_sid": account_sid,
            "api_version": "2010-04-01",
            "friendly_name": name,
            "status": "in-progress",
            "region": "us1",
            "date_created": rfc2822(created),
            "date_updated": rfc2822(created),
            "call_sid_ending_conference": None,
            "subresource_uris": {},
            "uri": f"{uri}.json",
        },
    )
    for call in calls:
        server.put(
            account_sid,
            f"participants of {sid}",
            {
                "account_sid": account_sid,
                "call_sid": call,
                "conference_sid": sid,
                "label": None,
                "coaching": False,
                "call_sid_to_coach": None,
                "muted": False,
                "hold": False,
                "status": "connected",
                "queue_time": None,
                "start_conference_on_enter": True,
                "end_conference_on_exit": False,
                "date_created": rfc2822(created),
                "date_updated": rfc2822(created),
                "uri": f"{uri}/Participants/{call}.json",
            },
            key=call,
        )


def put_call(server: TwilioServer, account_sid: str, sid: str, created: datetime, *, from_: str, to: str) -> None:
    """Put a call into an account: https://www.twilio.com/docs/voice/api/call-resource."""
    server.put(
        account_sid,
        "calls",
        {
            "sid": sid,
            "account_sid": account_sid,
            "api_version": "2010-04-01",
            "parent_call_sid": None,
            "from": from_,
            "to": to,
            "direction": "inbound",
            "status": "completed",
            "date_created": rfc2822(created),
            "date_updated": rfc2822(created),
            "start_time": rfc2822(created),
            "end_time": rfc2822(created),
            "duration": "60",
            "subresource_uris": {},
            "uri": f"/2010-04-01/Accounts/{account_sid}/Calls/{sid}.json",
            CREATED: created,
        },
    )


def put_call_event(server: TwilioServer, account_sid: str, call_sid: str, twiml: str, at: datetime) -> None:
    """Put TwiML that a call ran into its history."""
    event = {
        "request": {"method": "POST", "url": "https://example.com/voice", "parameters": {"call_sid": call_sid}},
        "response": {
            "response_code": 200,
            "request_duration": 20,
            "content_type": "text/xml",
            "response_body": twiml,
            "date_created": rfc2822(at),
        },
    }
    kind = f"events of {call_sid}"
    server.put(account_sid, kind, event, key=str(len(server.things(account_sid, kind))))


def _shown(recording: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in recording.items() if name != CREATED}


def _own(asked: Asked) -> Account:
    """The oldest API names the account in the path, and each caller may see its own."""
    if asked.parts["AccountSid"] != asked.account.sid:
        raise Refusal(404, 20404, "The requested resource was not found")
    return asked.account


@endpoint("GET", "api", "/2010-04-01/Accounts/{AccountSid}/Recordings.json")
def list_recordings(server: TwilioServer, asked: Asked) -> Answer:
    """The newest first. Of dates only the day counts, as Twilio's documents say."""
    if many := server.things(_own(asked).sid, "many recordings"):
        return page(server, asked, "recordings", many["many"]["listed"])
    there: Iterable[dict[str, Any]] = server.things(_own(asked).sid, "recordings").values()
    for query, keeps in (("DateCreated>", datetime.__ge__), ("DateCreated<", datetime.__lt__)):
        if query in asked.query:
            day = datetime.fromisoformat(asked.query[query]).replace(tzinfo=UTC)
            day = day.replace(hour=0, minute=0, second=0)
            bound = day if query.endswith(">") else day + timedelta(days=1)
            there = [each for each in there if keeps(each[CREATED], bound)]
    if asked.query.get("IncludeSoftDeleted") != "true":
        there = [each for each in there if each["status"] != "deleted"]
    newest = sorted(there, key=itemgetter(CREATED), reverse=True)
    return page(server, asked, "recordings", [_shown(each) for each in newest])


@endpoint("GET", "api", "/2010-04-01/Accounts/{AccountSid}/Calls.json")
def list_calls(server: TwilioServer, asked: Asked) -> Answer:
    """The newest first, from or to a number where one is asked for."""
    there = [
        each
        for each in server.things(_own(asked).sid, "calls").values()
        if all(each[key.lower()] == asked.query[key] for key in ("From", "To") if key in asked.query)
    ]
    newest = sorted(there, key=itemgetter(CREATED), reverse=True)
    return page(server, asked, "calls", [_shown(each) for each in newest])


@endpoint("GET", "api", "/2010-04-01/Accounts/{AccountSid}/Recordings/{Sid}.json")
def fetch_recording(server: TwilioServer, asked: Asked) -> Answer:
    found = server.get(_own(asked).sid, "recordings", asked.parts["Sid"])
    if found["status"] == "deleted" and asked.query.get("IncludeSoftDeleted") != "true":
        raise Refusal(404, 20404, "The requested resource was not found")
    return Answer(_shown(found))


@endpoint("GET", "api", "/2010-04-01/Accounts/{AccountSid}/Conferences/{Sid}.json")
def fetch_conference(server: TwilioServer, asked: Asked) -> Answer:
    return Answer(server.get(_own(asked).sid, "conferences", asked.parts["Sid"]))


@endpoint("GET", "api", "/2010-04-01/Accounts/{AccountSid}/Conferences/{ConferenceSid}/Participants.json")
def list_participants(server: TwilioServer, asked: Asked) -> Answer:
    there = server.things(_own(asked).sid, f"participants of {asked.parts['ConferenceSid']}")
    return page(server, asked, "participants", there.values())


@endpoint("GET", "api", "/2010-04-01/Accounts/{AccountSid}/Calls/{CallSid}/Events.json")
def list_call_events(server: TwilioServer, asked: Asked) -> Answer:
    there = server.things(_own(asked).sid, f"events of {asked.parts['CallSid']}")
    return page(server, asked, "events", there.values())
