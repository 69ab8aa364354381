"""The widgets of a Studio flow that can have to do with recordings, read from its definition.

https://www.twilio.com/docs/studio/widget-library
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from monitor.audit.account import Widget

RECORD_CALL: Final = "record-call"
# What starts a recording: the property that says so (None: by being there), and the one that names its callback.
RECORDERS: Final[Mapping[str, tuple[str | None, str]]] = {
    RECORD_CALL: ("record_call", "recording_status_callback"),
    "record-voicemail": (None, "recording_status_callback_url"),
    "connect-call-to": ("record", "recording_status_callback"),
    "make-outgoing-call": ("record", "recording_status_callback"),
    "make-outgoing-call-v2": ("record", "recording_status_callback"),
}
# What hands the call, or the decision about it, to something that no definition shows.
INDIRECT: Final = ("add-twiml-redirect", "make-http-request", "run-function")
_OFF: Final = frozenset({"", "false", "do-not-record", "none"})


def widgets_of(definition: object) -> tuple[Widget, ...]:
    """The widgets of a definition that record, might, or lead somewhere; a definition that is none has none.

    A property whose value is made while the flow runs (``{{…}}``) counts as one that records.
    """
    if isinstance(definition, str):
        try:
            definition = msgspec.json.decode(definition)
        except msgspec.DecodeError:
            return ()
    states = definition.get("states") if isinstance(definition, dict) else None
    return tuple(_widgets(states if isinstance(states, list) else []))


def _widgets(states: list[Any]) -> Iterator[Widget]:
    for state in states:
        if not isinstance(state, dict) or not isinstance(state.get("type"), str):
            continue
        kind, name = state["type"], str(state.get("name") or "")
        properties = state.get("properties")
        if not isinstance(properties, dict):
            properties = {}
        if kind in RECORDERS:
            by, callback = RECORDERS[kind]
            yield Widget(name, kind, by is None or _on(properties.get(by)), _text(properties.get(callback)))
        elif kind in INDIRECT:
            yield Widget(name, kind, leads_to=_text(properties.get("url")))
        elif any(_on(value) for key, value in properties.items() if key in ("record", "record_call")):
            yield Widget(name, kind, records=True)


def _on(value: object) -> bool:
    return value is not None and str(value).strip().lower() not in _OFF


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
