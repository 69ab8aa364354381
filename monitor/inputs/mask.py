"""Masking events for a bug report: who was on the line goes, what the core reads stays.

Anything not known to be harmless is replaced. The same text always becomes the same word within one export, so that
what was equal stays equal (a conference's name in its TwiML and in its events); another export has other words, made
with a key that is forgotten.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

import msgspec

_SID: Final = re.compile(r"[A-Z]{2}[0-9a-f]{32}(?:#[0-9]+)?")
_SIDS_WITHIN: Final = re.compile(r"[A-Z]{2}[0-9a-f]{32}")
_DATE: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9:.]+(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?"
    r"|[A-Z][a-z]{2}, [0-9]{1,2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} (?:[+-][0-9]{4}|GMT|UTC)"
)
_WORD: Final = re.compile(r"true|false|null|-?[0-9]{1,6}(?:\.[0-9]+)?|")
# An epoch in seconds or milliseconds of this century's first half: TaskRouter writes such instants as text.
_EPOCH: Final = re.compile(r"1[0-9]{9}(?:[0-9]{3})?")
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]{0,15}://", re.IGNORECASE)

# Keys, folded (case and underscores gone), whose text comes from Twilio's own closed sets or is an identifier.
_HARMLESS: Final = frozenset(
    {
        "answeredby",
        "apiversion",
        "callstatus",
        "calltype",
        "cause",
        "channels",
        "conferencerecord",
        "contenttype",
        "datacontenttype",
        "dataschema",
        "direction",
        "endreason",
        "endedreason",
        "endedby",
        "errorcode",
        "eventtype",
        "id",
        "level",
        "method",
        "participantcallstatus",
        "processingstate",
        "reasonconferenceended",
        "reasonparticipantleft",
        "record",
        "recordingchannels",
        "recordingsource",
        "recordingstatus",
        "recordingtrack",
        "revision",
        "schemaversion",
        "specversion",
        "status",
        "statuscallbackevent",
        "taskchannel",
        "taskchanneluniquename",
        "track",
        "transition",
        "trim",
        "type",
    }
)
_TWIML: Final = frozenset({"twiml", "responsebody"})
# What TwiML is reduced to: what can start a recording, and what says for which conference.
_ELEMENTS: Final = frozenset({"Response", "Dial", "Conference", "Record", "Start", "Recording", "Enqueue", "Redirect"})


class Mask:
    """Replaces what may tell of people, for one export."""

    def __init__(self, key: bytes | None = None) -> None:
        """``key`` only for tests; otherwise drawn, and never written anywhere."""
        self._key = key or secrets.token_bytes(32)

    def json(self, data: bytes) -> bytes | None:
        """Mask one JSON document; None where it is none, and so cannot be known to be harmless."""
        try:
            value = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return msgspec.json.encode(self._value("", value))

    def headers(self, headers: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        """Mask the values of a message's headers; those of CloudEvents stay readable."""
        return [
            (name, self._text(_fold(name.lower().removeprefix("ce_")), value.decode(errors="replace")).encode())
            for name, value in headers
        ]

    def _value(self, key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {
                (name if len(name) <= 64 and re.fullmatch(r"[A-Za-z0-9_.\-]+", name) else self._word(name)): (
                    self._value(_fold(name), inner)
                )
                for name, inner in value.items()
            }
        if isinstance(value, list):
            return [self._value(key, inner) for inner in value]
        if isinstance(value, str):
            return self._text(key, value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            # A telephone number may come as a number; an instant in milliseconds must stay.
            return value if abs(value) < 1_000_000 or _EPOCH.fullmatch(str(value)) else 0
        return value

    def _text(self, key: str, text: str) -> str:
        if key in _TWIML:
            return self._twiml(text)
        if text[:1] in ("{", "[") and (inner := self._inner(key, text)) is not None:
            return inner
        if _URL.match(text):
            return self._url(text)
        if (
            key in _HARMLESS
            and len(text) <= 200
            and "+" not in text
            and not re.search(r"[0-9]{7}", _without_sids(text))
        ):
            return text
        if any(pattern.fullmatch(text) for pattern in (_SID, _DATE, _WORD)):
            return text
        if _EPOCH.fullmatch(text) and (key.endswith(("time", "timestamp", "date")) or key in ("time", "timestamp")):
            return text
        if text.startswith("/") and key == "source":
            return "/".join(self._segment(segment) for segment in text.split("/"))
        if key.endswith("source") and re.fullmatch(r"[A-Za-z_]{1,64}", text):
            return text
        return self._word(text)

    def _inner(self, key: str, text: str) -> str | None:
        """JSON inside a string: task attributes, or all of ``data``."""
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            return None
        return msgspec.json.encode(self._value(key, value)).decode()

    def _url(self, text: str) -> str:
        """An address without user, query and fragment; what in its path is neither a word nor a SID is replaced."""
        try:
            parts = urlsplit(text)
            host = parts.hostname or ""
            port = f":{parts.port}" if parts.port else ""
        except ValueError:
            return self._word(text)
        if parts.scheme.lower() not in ("http", "https", "ws", "wss"):
            return f"{parts.scheme}://{self._word(text)}"
        path = "/".join(self._segment(segment) for segment in parts.path.split("/"))
        return urlunsplit((parts.scheme, host + port, path, "", ""))

    def _segment(self, segment: str) -> str:
        bare = _without_sids(segment)
        return (
            segment
            if re.fullmatch(r"[A-Za-z0-9._~-]{0,64}", bare) and not re.search(r"[0-9]{7}", bare)
            else (self._word(segment))
        )

    def _word(self, text: str) -> str:
        digest = hmac.new(self._key, text.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()
        return f"masked-{digest[:12]}"

    def _twiml(self, text: str) -> str:
        """TwiML, or a base64 body that may be TwiML, reduced to its skeleton; anything else reduced to nothing."""
        if text.lstrip()[:1] == "<":
            return self._skeleton(text.encode())
        try:
            body = base64.b64decode(text, validate=False)
        except ValueError:
            return ""
        if body.lstrip()[:1] != b"<":
            return ""
        return base64.b64encode(self._skeleton(body).encode()).decode()

    def _skeleton(self, body: bytes) -> str:
        out: list[str] = []
        inside: list[str] = []
        text: list[str] = []

        def refuse(*_: object) -> None:
            raise ValueError("a DTD")

        def start(name: str, attributes: dict[str, str]) -> None:
            inside.append(name)
            text.clear()
            if name in _ELEMENTS:
                kept = {
                    k: v for k, v in attributes.items() if k.lower().startswith("record") and _WORDLIKE.fullmatch(v)
                }
                out.append(f"<{name}" + "".join(f" {k}={quoteattr(v)}" for k, v in kept.items()) + ">")

        def end(name: str) -> None:
            inside.pop()
            if name == "Conference" and (said := "".join(text).strip()):
                out.append(said if _SID.fullmatch(said) else self._word(said))
            if name in _ELEMENTS:
                out.append(f"</{name}>")

        def characters(data: str) -> None:
            if inside and inside[-1] == "Conference":
                text.append(data)

        parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = refuse
        parser.EntityDeclHandler = refuse
        parser.StartElementHandler = start
        parser.EndElementHandler = end
        parser.CharacterDataHandler = characters
        try:
            parser.Parse(body, True)
        except (expat.ExpatError, ValueError, LookupError):
            return "<Response></Response>"
        return "".join(out)


_WORDLIKE: Final = re.compile(r"[a-z-]{1,40}", re.IGNORECASE)


def _fold(key: str) -> str:
    return key.replace("_", "").replace("-", "").lower()


def _without_sids(text: str) -> str:
    return _SIDS_WITHIN.sub("", text)
