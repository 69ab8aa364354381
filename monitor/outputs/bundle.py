"""The bundle for Twilio's support: all that they ask for about some recordings, in one zip. A pure function of it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from monitor.core.verdict import render_instant
from monitor.outputs.alert_text import headline
from monitor.outputs.case_events import RawEvents
from monitor.outputs.cases import Case, timeline
from monitor.outputs.steps import ARTICLE_URL, Checked, article_steps

MANIFEST: Final = "manifest.sha256"


def render_bundle(
    found: Sequence[tuple[Case, RawEvents]], settings: Mapping[str, Sequence[bytes]], *, now_ms: int, masked: bool
) -> bytes:
    """Pack cases with their events; ``settings`` is what is known of their accounts, as it stands in its topic.

    What people said to a case stays with them. ``manifest.sha256`` is what ``sha256sum --check`` reads.
    """
    files = {"README.md": _description(found, now_ms, masked=masked)}
    for case, events in found:
        document = {"verdict": case.verdict, "timeline": [line for line in timeline(case) if line.by is None]}
        files[f"{case.key}/case.json"] = _json(document)
        files[f"{case.key}/checklist.json"] = _json(article_steps(case.verdict))
        lines = [
            msgspec.json.encode(
                {
                    "position": raw.position,
                    "arrived_at": raw.arrived_at,
                    "value": None if raw.value is None else msgspec.Raw(raw.value),
                }
            )
            for raw in events.events
        ]
        files[f"{case.key}/events.jsonl"] = b"".join(line + b"\n" for line in lines)
    for account, values in settings.items():
        files[f"{account}.settings.jsonl"] = b"".join(msgspec.json.format(value, indent=-1) + b"\n" for value in values)
    digests = [f"{hashlib.sha256(body).hexdigest()}  {name}\n" for name, body in files.items()]
    files[MANIFEST] = "".join(digests).encode()
    packed = io.BytesIO()
    at = datetime.fromtimestamp(now_ms / 1000, UTC).timetuple()[:6]
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in files.items():
            archive.writestr(zipfile.ZipInfo(name, at), body, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _description(found: Sequence[tuple[Case, RawEvents]], now_ms: int, *, masked: bool) -> bytes:
    """What to paste into the ticket."""
    lines = [
        f"Calls are recorded that should not be: {len(found)} here. Times are UTC. Written {render_instant(now_ms)}.",
        f"We have followed {ARTICLE_URL}",
        "",
    ]
    for case, events in found:
        verdict = case.verdict
        lines += [
            f"## {case.key}",
            "",
            headline(verdict),
            "",
            *(
                f"- {what}: {value}"
                for what, value in (
                    ("account", verdict.account_sid),
                    ("recording", verdict.recording_sid),
                    ("call", verdict.call_sid),
                    ("conference", verdict.conference_sid),
                    ("source", verdict.start_source),
                    ("started", verdict.started_at),
                    ("ended", verdict.ended_at),
                    ("status", verdict.recording_status),
                )
                if value
            ),
            "",
            "Evidence:",
            "",
            *(
                f"- {shown.occurred_at} {shown.shows} (event {shown.event_id or 'without id'}, {shown.type})"
                for shown in verdict.evidence
            ),
            "",
            "The article's steps:",
            "",
            *map(_checked, article_steps(verdict)),
            "",
        ]
        if verdict.missing:
            lines += [f"Not known: {', '.join(verdict.missing)}.", ""]
        if events.why:
            lines += [f"Of the events: {events.why}", ""]
    lines.append("Numbers, names and TwiML are masked." if masked else "Numbers and names are not masked.")
    return ("\n".join(lines) + "\n").encode()


def _checked(step: Checked) -> str:
    why = f" ({step.why})" if step.why else ""
    return f"- {step.state}: {step.says}{why}"


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
