"""The audit: what in an account can start a recording, what only a person can find out, and what has changed.

Twilio is a server of ours, held against Twilio's own OpenAPI documents.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor.audit import report
from monitor.audit.account import AccountRead, Flex, Flow, Line, Trunk, Unread, Widget
from monitor.audit.drift import changes
from monitor.audit.starts import Audit, find_starts
from monitor.audit.studio import widgets_of
from monitor.cli import run
from monitor.core.policy import Policy, built_in_policy
from monitor.inputs.account import read_account
from monitor.inputs.policy_file import load_policy
from monitor.settings import load_settings
from monitor.twilio.accounts import Twilio
from tests.twilio_server import Account, TwilioServer, set_flex, set_flow, set_line, set_number, set_trunk

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)  # A Thursday.
AC = "AC" + "1" * 32
FW = [f"FW{number:032x}" for number in range(4)]
TK = [f"TK{number:032x}" for number in range(4)]
PN = [f"PN{number:032x}" for number in range(8)]
AP = "AP" + "a" * 32
SD = "SD" + "d" * 32
EH = "EH" + "e" * 32
NUMBER = "+4930123456"


def flow_url(account: str, flow: str) -> str:
    return f"https://webhooks.twilio.com/v1/Accounts/{account}/Flows/{flow}"


def state(name: str, kind: str, **properties: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "transitions": [], "properties": properties}


def policy(directory: Path, text: str) -> Policy:
    file = directory / "policy.yaml"
    file.write_text(text)
    return load_policy(file).policy


def found(account: AccountRead, under: Policy | None = None) -> Audit:
    return find_starts([account], under or built_in_policy(), NOW)


# --- A flow's widgets


@pytest.mark.parametrize(
    ("kind", "properties", "records"),
    [
        ("record-call", {"record_call": True}, True),
        ("record-call", {"record_call": "true"}, True),
        ("record-call", {"record_call": False}, False),
        ("record-call", {}, False),
        ("record-call", {"record_call": "{{flow.variables.record}}"}, True),
        ("record-voicemail", {}, True),
        ("connect-call-to", {"record": True}, True),
        ("connect-call-to", {"record": "do-not-record"}, False),
        ("make-outgoing-call-v2", {"record": True}, True),
        ("a-widget-of-next-year", {"record": True}, True),
    ],
)
def test_a_widget_records_where_its_properties_say_so(kind, properties, records):
    (widget,) = widgets_of({"states": [state("w", kind, **properties)]})

    assert (widget.name, widget.type, widget.records) == ("w", kind, records)


@pytest.mark.parametrize(
    "definition", [None, 7, "no JSON", [], {}, {"states": None}, {"states": [None, {"type": 3}, {"name": "x"}]}]
)
def test_what_is_no_definition_has_no_widgets(definition):
    assert widgets_of(definition) == ()


def test_a_definition_may_come_as_text_and_what_has_nothing_to_do_with_recordings_is_left_out():
    states = [state("greet", "say-play", say="Hello"), state("f", "run-function", url="https://x-1.twil.io/a?k=1")]

    (widget,) = widgets_of(json.dumps({"states": states}))
    assert (widget.name, widget.records, widget.leads_to) == ("f", False, "https://x-1.twil.io/a?k=1")


# --- What is found


def test_every_way_to_record_has_its_cause_and_is_judged():
    account = AccountRead(
        AC,
        "main",
        Flex(True, None),
        (
            Flow(
                FW[0],
                7,
                (
                    Widget("rec", "record-call", True),
                    Widget("off", "record-call", False),
                    Widget("vm", "record-voicemail", True),
                    Widget("dial", "connect-call-to", True),
                    Widget("out", "make-outgoing-call-v2", True),
                ),
            ),
        ),
        (Trunk(TK[0], "record-from-answer-dual"), Trunk(TK[1], "do-not-record")),
    )

    audit = found(account)
    assert [(str(start.place), start.cause, start.outcome) for start in audit.starts] == [
        ("Flex configuration", "flex_call_recording", "disallowed"),
        (
            f"Studio flow {FW[0]}, revision 7, widget rec (record-call)",
            "studio_call_recording_widget",
            "disallowed",
        ),
        (f"Studio flow {FW[0]}, revision 7, widget vm (record-voicemail)", "record_verb", "disallowed"),
        (f"Studio flow {FW[0]}, revision 7, widget dial (connect-call-to)", "dial_verb", "disallowed"),
        (f"Studio flow {FW[0]}, revision 7, widget out (make-outgoing-call-v2)", "outbound_call_api", "disallowed"),
        (f"SIP trunk {TK[0]}", "sip_trunk", "disallowed"),
    ]
    assert audit.looks == ()


def test_where_the_outcome_depends_on_the_call_it_is_undetermined_and_says_on_what(tmp_path):
    under = policy(
        tmp_path,
        "policy: p\ndefault: disallowed\nrules:\n"
        "  - {name: voicemail, outcome: allowed, when: {cause: record_verb, queue: support}}\n"
        "  - {name: trunks, outcome: allowed, when: {cause: sip_trunk}}\n",
    )
    account = AccountRead(
        AC, "main", None, (Flow(FW[0], 1, (Widget("vm", "record-voicemail", True),)),), (Trunk(TK[0], "x"),)
    )

    voicemail, trunk = found(account, under).starts
    assert (voicemail.outcome, voicemail.depends_on) == ("undetermined", ("queue",))
    assert (trunk.outcome, trunk.rule, trunk.depends_on) == ("allowed", "trunks", ())


@pytest.mark.parametrize(
    ("hours", "outcome"),
    [
        ("{days: [mon-fri], from: '08:00', to: '18:00', zone: Europe/Berlin}", "undetermined"),
        ("{days: [sat], from: '03:00', to: '03:05', zone: Asia/Tokyo}", "undetermined"),
        ("{days: [mon-sun], from: '00:00', to: '24:00', zone: UTC}", "allowed"),
    ],
)
def test_a_rule_with_hours_is_asked_at_every_hour_and_not_only_now(tmp_path, hours, outcome):
    under = policy(
        tmp_path,
        f"policy: p\ndefault: disallowed\nrules:\n  - {{name: day, outcome: allowed, when: {{hours: {hours}}}}}\n",
    )

    (start,) = found(AccountRead(AC, "main", Flex(True, None)), under).starts
    assert start.outcome == outcome
    assert start.depends_on == (("hours",) if outcome == "undetermined" else ())


def test_a_rule_on_the_callback_address_sees_that_of_the_widget(tmp_path):
    under = policy(
        tmp_path,
        "policy: p\ndefault: disallowed\nrules:\n"
        "  - {name: ours, outcome: allowed, when: {callback_url: 'https://calls.example.com/*'}}\n",
    )
    widgets = (
        Widget("ours", "record-call", True, "https://calls.example.com/done"),
        Widget("theirs", "record-call", True, "https://other.example.com/done"),
        Widget("nobodys", "record-call", True),
    )

    starts = found(AccountRead(AC, "main", None, (Flow(FW[0], 1, widgets),)), under).starts
    assert [start.outcome for start in starts] == ["allowed", "disallowed", "disallowed"]


def test_what_no_api_shows_is_listed_once_with_every_number_that_leads_there():
    bin_ = f"https://handler.twilio.com/twiml/{EH}?Name=Jane"
    lines = (
        Line("number", PN[0], (bin_,), NUMBER),
        Line("number", PN[1], (bin_, "https://user:secret@hooks.example.com/voice?token=1"), "+4930000002"),
        Line("number", PN[2], ("https://twimlets.com/voicemail?Email=a@b.c",), "+4930000003"),
        Line("number", PN[3], ("https://ivr-1234.twil.io/start",), "+4930000004"),
        Line("number", PN[4], (flow_url(AC, FW[3]),), "+4930000005"),
        Line("number", PN[5], ("https://ignored.example.com/",), "+4930000006", application_sid=AP),
        Line("application", AP, ("https://app.example.com/voice",)),
        Line("sip-domain", SD, ("http://[broken", f"https://sip.example.com/for/{NUMBER}")),
    )

    looks = found(AccountRead(AC, "main", None, (), (), lines)).looks
    assert [(str(look.place), [entrance.sid for entrance in look.reached_from]) for look in looks] == [
        (f"TwiML Bin {EH}", [PN[0], PN[1]]),
        ("Webhook https://hooks.example.com/voice", [PN[1]]),
        ("Twimlet https://twimlets.com/voicemail", [PN[2]]),
        ("Function https://ivr-1234.twil.io/start", [PN[3]]),
        (f"Studio flow {FW[3]}", [PN[4]]),
        ("Webhook https://app.example.com/voice", [PN[5], AP]),
        ("Webhook", [SD]),
        ("Webhook https://sip.example.com/for/[redacted]", [SD]),
    ]


def test_a_number_of_a_trunk_goes_there_whatever_its_own_address():
    lines = (Line("number", PN[0], ("https://hooks.example.com/",), NUMBER, trunk_sid=TK[0]),)

    audit = found(AccountRead(AC, "main", None, (), (Trunk(TK[0], "record-from-ringing"),), lines))
    assert [entrance.sid for entrance in audit.starts[0].reached_from] == [PN[0]]
    assert audit.looks == ()


def test_widgets_that_hand_the_decision_on_are_to_be_looked_at():
    widgets = (
        Widget("hand-on", "add-twiml-redirect", leads_to=f"https://handler.twilio.com/twiml/{EH}"),
        Widget("ask", "run-function", leads_to="https://ivr-1234.twil.io/ask?key=secret"),
        Widget("new", "a-widget-of-next-year", records=True),
    )

    audit = found(AccountRead(AC, "main", Flex(None, None), (Flow(FW[0], 1, widgets),)))
    assert audit.starts == ()
    assert [look.place.widget for look in audit.looks] == [None, "hand-on", "ask", "new"]
    assert "secret" not in report.as_json(audit, None)


# --- What has changed


def test_a_name_in_markdown_is_shown_and_obeyed_in_nothing():
    widget = Widget("a|b\n# <script>[x](//y)`* __c__ d_e ~~f~~ &lt;", "record-call", True)
    audit = found(AccountRead(AC, "main", None, (Flow(FW[0], 1, (widget,)),)))

    [row] = [line for line in report.as_markdown(audit, None).splitlines() if "script" in line]
    assert r"a\|b # \<script\>\[x\](//y)\`\* \_\_c\_\_ d_e \~\~f\~\~ \&lt;" in row


def test_a_new_revision_that_does_the_same_is_no_change_and_a_new_widget_is():
    old, new = Widget("rec", "record-call", True), Widget("vm", "record-voicemail", True)
    before = found(AccountRead(AC, "main", None, (Flow(FW[0], 7, (old,)),), (Trunk(TK[0], "record-from-ringing"),)))
    same = found(AccountRead(AC, "main", None, (Flow(FW[0], 8, (old,)),), (Trunk(TK[0], "record-from-ringing"),)))
    now = found(AccountRead(AC, "main", None, (Flow(FW[0], 8, (new,)),), (Trunk(TK[0], "record-from-answer"),)))

    assert changes(before, same) == ()
    assert [
        (change.kind, change.what.place.widget, change.before, change.after) for change in changes(before, now)
    ] == [
        ("added", "vm", None, "disallowed"),
        ("changed", None, "disallowed, record-from-ringing", "disallowed, record-from-answer"),
        ("removed", "rec", "disallowed", None),
    ]


def test_what_could_not_be_asked_this_time_is_not_gone():
    widgets = (Widget("rec", "record-call", True),)
    before = found(AccountRead(AC, "main", Flex(True, None), (Flow(FW[0], 7, widgets),), (Trunk(TK[0], "x"),)))
    now = found(AccountRead(AC, "main", unread=(Unread(AC, "studio-flows", "403"), Unread(AC, "flex", "403"))))

    assert [(change.kind, change.what.place.kind) for change in changes(before, now)] == [("removed", "sip-trunk")]
    assert changes(before, find_starts([], built_in_policy(), NOW)) == ()  # Another account was asked.


# --- Over REST, and as a command


@pytest.fixture
def account(twilio: TwilioServer) -> Account:
    """An account with one of each."""
    account = twilio.account()
    set_flex(twilio, account, recording=True, callback_url="https://calls.example.com/flex")
    set_flow(twilio, account, FW[0], [state("rec", "record-call", record_call=True)])
    set_flow(twilio, account, FW[0], [state("draft", "record-voicemail")], status="draft")
    set_flow(twilio, account, FW[1], [state("never", "record-voicemail")], status="draft")
    set_trunk(twilio, account, TK[0], "record-from-answer-dual")
    set_trunk(twilio, account, TK[1], "do-not-record")
    set_number(twilio, account, PN[0], NUMBER, voice_url=flow_url(account.sid, FW[0]))
    set_number(twilio, account, PN[1], "+4930999999", voice_url="https://hooks.example.com/v")
    set_number(twilio, account, PN[2], "+4930888888", voice_receive_mode="fax", voice_url="https://fax.example.com/")
    set_line(twilio, account, "applications", AP, f"https://handler.twilio.com/twiml/{EH}")
    set_line(twilio, account, "domains", SD, "https://sip.example.com/voice")
    return account


def configure(directory: Path, twilio: TwilioServer, account: Account, **more: Any) -> Path:
    file = directory / "monitor.yaml"
    file.write_text(yaml.safe_dump(twilio.settings(directory, account, **more)))
    return file


def test_an_account_is_read_whole_page_by_page(twilio, account, tmp_path):
    twilio.page_max = 1
    settings = load_settings(configure(tmp_path, twilio, account), {})

    async def read() -> AccountRead:
        async with Twilio(settings) as connected:
            (one,) = await connected.accounts()
            return await read_account(one)

    told = asyncio.run(read())
    assert told.unread == ()
    assert told.flex == Flex(True, "https://calls.example.com/flex")
    # What calls run through is what was published, not the draft on top of it.
    assert told.flows == (Flow(FW[0], 1, (Widget("rec", "record-call", True),)),)
    assert told.trunks == (Trunk(TK[0], "record-from-answer-dual"), Trunk(TK[1], "do-not-record"))
    assert [(line.kind, line.sid) for line in told.lines] == [
        ("number", PN[0]),
        ("number", PN[1]),
        ("application", AP),
        ("sip-domain", SD),
    ]
    assert twilio.changes == []


def test_an_account_without_flex_has_none(twilio, tmp_path, capsys):
    bare = twilio.account()

    assert run(["audit", "--config", str(configure(tmp_path, twilio, bare))]) == 0
    assert "0 can start recordings" in capsys.readouterr().out


def test_the_command_prints_masked_numbers_and_exits_with_1(twilio, account, tmp_path, capsys):
    config = str(configure(tmp_path, twilio, account))

    for form in ("text", "json", "markdown"):
        assert run(["audit", "--config", config, "--format", form]) == 1
        told = capsys.readouterr().out
        told = told.replace("\\", "") if form == "markdown" else told  # An asterisk is one, and no emphasis.
        assert NUMBER not in told
        for word in ("+49******56", FW[0], "rec", TK[0], EH, "hooks.example.com", "TwiML Bins"):
            assert word in told, (form, word)

    assert run(["audit", "--config", config, "--format", "markdown", "--show-numbers"]) == 1
    assert NUMBER in capsys.readouterr().out


def test_a_policy_that_allows_all_of_it_is_exit_code_0(twilio, account, tmp_path, capsys):
    (tmp_path / "policy.yaml").write_text("policy: all\ndefault: allowed\n")
    config = str(configure(tmp_path, twilio, account))

    assert run(["audit", "--config", config, "--policy", str(tmp_path / "policy.yaml")]) == 0
    assert "0 of them disallowed, 3 allowed" in capsys.readouterr().out


def test_what_changed_since_a_saved_audit_is_told(twilio, account, tmp_path, capsys):
    config, saved = str(configure(tmp_path, twilio, account)), tmp_path / "audit.json"
    assert run(["audit", "--config", config, "--save", str(saved)]) == 1
    assert NUMBER not in saved.read_text()
    assert run(["audit", "--config", config, "--baseline", str(saved)]) == 1
    assert "Nothing changed since the baseline." in capsys.readouterr().out

    set_flex(twilio, account, recording=False)
    set_flow(twilio, account, FW[1], [state("vm", "record-voicemail")])
    assert run(["audit", "--config", config, "--baseline", str(saved), "--format", "json"]) == 1
    changed = json.loads(capsys.readouterr().out)["changes"]
    assert [(each["kind"], each["place"]["kind"]) for each in changed] == [
        ("added", "studio-widget"),
        ("removed", "flex-configuration"),
    ]


def test_a_part_that_may_not_be_asked_is_said_and_the_answer_is_not_whole(twilio, tmp_path, capsys):
    bare = twilio.account()
    twilio.fail("/v1/Trunks", status=403, body=b'{"code": 20003, "message": "no", "status": 403}', times=None)

    assert run(["audit", "--config", str(configure(tmp_path, twilio, bare))]) == 3
    told = capsys.readouterr()
    assert "sip-trunks" in told.out
    assert "1 parts could not be read" in told.err


def test_credentials_that_twilio_does_not_know_stop_it(twilio, account, tmp_path, capsys):
    config = configure(tmp_path, twilio, account)
    (tmp_path / f"{account.sid}.token").write_text("f" * 32)

    assert run(["audit", "--config", str(config)]) == 2
    assert "auth_token_file" in capsys.readouterr().err


def test_a_baseline_that_is_none_is_refused(twilio, account, tmp_path, capsys):
    config = str(configure(tmp_path, twilio, account))
    (tmp_path / "other.json").write_text("{}")

    assert run(["audit", "--config", config, "--baseline", str(tmp_path / "other.json")]) == 2
    assert run(["audit", "--config", config, "--baseline", str(tmp_path / "nowhere.json")]) == 2
    assert capsys.readouterr().err.count("--save FILE") == 2
