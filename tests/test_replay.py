"""``replay`` as somebody calls it: what goes in, in every form, what comes out, and the exit code."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pty
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from monitor.cli import run
from monitor.commands.export import render
from monitor.commands.stretch import TopicMessage
from tests.monitors import PROGRAM, environment, program
from tests.verify import FIELDS, Message, Verdict, verify_verdicts

STREAMS = sorted((Path(__file__).parent / "samples" / "scenarios").glob("*.jsonl"))
BY_NUMBER = {int(path.name[:2]): path for path in STREAMS}
SUSPECTED = "CF00000000000000000013000000000001"

# Runs ``replay`` and returns its exit code, the verdicts it printed and what it said on stderr.
Replayed = tuple[int, bytes, str]
Replaying = Callable[..., Replayed]


@pytest.fixture
def replay(capfdbinary: pytest.CaptureFixture[bytes]) -> Replaying:
    def replay_(*arguments: object) -> Replayed:
        code = run(["replay", "--format", "jsonl", *map(str, arguments)])
        told = capfdbinary.readouterr()
        return code, told.out, told.err.decode()

    return replay_


def verdicts(out: bytes) -> list[Verdict]:
    return [json.loads(line) for line in out.splitlines()]


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def counted(entries: int, **kinds: int) -> str:
    """The line about what was counted."""
    events = entries - sum(kinds.values())
    rest = ", ".join(f"{kinds.get(kind, 0)} {kind}" for kind in ("ignored", "malformed", "duplicate", "late"))
    return f"{entries} entries: {events} events, {rest}\n"


# ------------------------------------------------------------------------------------------------- what comes out


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_a_sample_stream_comes_out_as_its_truth_says(replay: Replaying, path: Path) -> None:
    code, out, _ = replay(path)
    true = json.loads(path.with_suffix("").with_suffix(".expected.json").read_bytes())["recordings"]
    said = verdicts(out)
    assert code == 0
    assert [
        {
            "recording_sid": verdict["recording_sid"],
            "source": verdict["start_source"],
            "conference_sid": verdict["conference_sid"],
            "call_sid": verdict["call_sid"],
            "cause": verdict["cause"],
            "allowed_by_article_policy": verdict["outcome"] == "allowed",
        }
        for verdict in sorted(said, key=lambda verdict: str(verdict["recording_sid"]))
        if verdict["kind"] == "recording"
    ] == sorted(true, key=lambda one: str(one["recording_sid"]))
    assert all(verdict["final"] and verdict.keys() == FIELDS for verdict in said)
    suspicions = [verdict["conference_sid"] for verdict in said if verdict["kind"] == "suspicion"]
    assert suspicions == ([SUSPECTED] if path == BY_NUMBER[19] else [])


def test_suspicions_are_left_out_where_only_recordings_are_asked_for(replay: Replaying) -> None:
    assert replay("--recordings-only", BY_NUMBER[19]) == (0, b"", counted(7))
    assert replay("--recordings-only", "--revisions", BY_NUMBER[19]) == (0, b"", counted(7))
    _, out, _ = replay("--recordings-only", BY_NUMBER[19], BY_NUMBER[5])
    assert [verdict["kind"] for verdict in verdicts(out)] == ["recording"]


def test_a_recording_of_a_conference_withdraws_the_suspicion_of_it(replay: Replaying, tmp_path: Path) -> None:
    path = tmp_path / "both.jsonl"
    recorded = lines_of(BY_NUMBER[2])[-1]
    for line in lines_of(BY_NUMBER[2]):
        if b"recording.processed" in line:
            recorded = line
    recorded = recorded.replace(b"CF00000000000000000002000000000001", SUSPECTED.encode())
    path.write_bytes(b"\n".join([*lines_of(BY_NUMBER[19]), recorded]))
    _, out, _ = replay(path)
    assert [verdict["kind"] for verdict in verdicts(out)] == ["recording"]


def test_verdicts_come_in_the_order_in_which_recordings_appear(replay: Replaying, tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    chance = random.Random(3)
    streams = [lines_of(each) for each in STREAMS]
    mixed = []
    while any(streams):
        stream = chance.choice([each for each in streams if each])
        mixed.append(stream.pop(0))
    path.write_bytes(b"\n".join(mixed))
    _, out, _ = replay(path, "--recordings-only")
    said = [str(verdict["recording_sid"]).encode() for verdict in verdicts(out)]
    assert len(said) == 21
    assert said == sorted(said, key=lambda key: min(n for n, line in enumerate(mixed) if key in line))


# ---------------------------------------------------------------------------------------------- verdicts over time


def prefixes_of(lines: list[bytes], cuts: Iterable[int], tmp_path: Path, replay: Replaying) -> None:
    """What a prefix of a stream prints is the beginning of what all of it prints."""
    path = tmp_path / "prefix.jsonl"
    over_time = ("--arrival", "time", "--revisions", "--no-end", path)

    def told(count: int) -> bytes:
        path.write_bytes(b"".join(line + b"\n" for line in lines[:count]))
        code, out, _ = replay(*over_time)
        assert code == 0
        return out

    whole = told(len(lines))
    assert whole
    lengths = []
    for cut in cuts:
        part = told(cut)
        assert whole.startswith(part), f"after {cut} lines"
        lengths.append(len(part))
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 1


@pytest.mark.parametrize("number", [1, 2, 4, 8, 10, 11, 13, 15, 16])
def test_what_is_told_over_time_of_a_sample_stream_never_changes_afterwards(
    replay: Replaying, tmp_path: Path, number: int
) -> None:
    lines = lines_of(BY_NUMBER[number])
    prefixes_of(lines, range(len(lines) + 1), tmp_path, replay)


def test_what_is_told_over_time_of_a_simulated_day_never_changes_afterwards(replay: Replaying, tmp_path: Path) -> None:
    # Sparse enough that graces and windows end on the way, and rough enough that little comes in order.
    day = tmp_path / "day.jsonl"
    options = (
        "--events 2000 --rate 0.2 --recorded 1 --disorder 5m --late 0.1 --lateness 2h --duplicates 0.05 --retried 0.1"
    )
    assert run(["simulate", *options.split(), "--seed", "8", "--out", str(day)]) == 0
    lines = lines_of(day)
    assert len(lines) >= 2000
    cuts = sorted({0, 1, len(lines), *random.Random(8).sample(range(len(lines)), 15)})
    prefixes_of(lines, cuts, tmp_path, replay)


def test_what_is_told_over_time_is_what_a_verdict_topic_may_hold(replay: Replaying, tmp_path: Path) -> None:
    day = tmp_path / "day.jsonl"
    options = "--events 2000 --rate 0.2 --recorded 1 --disorder 5m --late 0.1 --lateness 2h --seed 9"
    assert run(["simulate", *options.split(), "--out", str(day)]) == 0
    _, out, _ = replay("--arrival", "time", "--revisions", day)
    told = [
        Message(0, n, 0, verdict["recording_sid"] or verdict["conference_sid"], line, {})
        for n, (line, verdict) in enumerate(zip(out.splitlines(), verdicts(out), strict=True))
    ]
    assert len(told) > 100
    found = verify_verdicts(told)
    # Positions are lines, which have no partition, and a file tells no tombstone: a suspicion may come again.
    assert [fault for fault in found.faults if "evidence at" not in fault] == []
    assert (found.repeats, found.regresses) == ([], [])


# ---------------------------------------------------------------------------------------------------- what goes in


def test_every_form_of_a_file_comes_out_alike(replay: Replaying, tmp_path: Path) -> None:
    lines = lines_of(BY_NUMBER[8])
    plain = replay(BY_NUMBER[8])
    forms = {
        "blank lines.jsonl": b"\n\r\n" + b"\r\n\r\n".join(lines) + b"\n\n",
        "without an end.jsonl": b"\n".join(lines),
        "zipped.jsonl.gz": gzip.compress(b"\n".join(lines)),
        "zipped, by another name": gzip.compress(b"\n".join(lines)),
        "zipped in two parts.gz": gzip.compress(b"\n".join(lines[:5]) + b"\n") + gzip.compress(b"\n".join(lines[5:])),
        "one array on a line.json": b"[" + b",".join(lines) + b"]",
        "pretty.json": json.dumps([json.loads(line) for line in lines], indent=2).encode(),
    }
    for name, data in forms.items():
        path = tmp_path / name
        path.write_bytes(data)
        code, out, said = replay(path)
        assert (code, said) == (0, counted(16)), name
        assert without_positions(out) == without_positions(plain[1]), name


def without_positions(out: bytes) -> list[Verdict]:
    """What does not depend on which line an event stood in, nor on how many events one line held."""
    found = verdicts(out)
    for verdict in found:
        for name in ("at", "rests_from", "revision", "history"):
            del verdict[name]
        for shown in verdict["evidence"]:
            del shown["position"]
    return found


def test_one_pretty_object_is_one_event(replay: Replaying, tmp_path: Path) -> None:
    [line] = [line for line in lines_of(BY_NUMBER[5]) if b"recording.processed" in line][:1]
    path = tmp_path / "one.json"
    path.write_text(json.dumps(json.loads(line), indent=4))
    code, out, said = replay(path)
    assert (code, said) == (0, counted(1))
    assert [verdict["cause"] for verdict in verdicts(out)] == ["dial_verb"]


def test_several_files_are_one_stream(replay: Replaying, tmp_path: Path) -> None:
    lines = lines_of(BY_NUMBER[10])
    paths = [tmp_path / f"{n}.jsonl{'.gz' if n == 1 else ''}" for n in range(3)]
    for n, path in enumerate(paths):
        part = b"\n".join(lines[n::3])
        path.write_bytes(gzip.compress(part) if n == 1 else part)
    _, out, said = replay(*paths)
    _, whole, _ = replay(BY_NUMBER[10])
    assert said == counted(len(lines))
    cause_and_place = [(v["cause"], v["conference_sid"], v["outcome"]) for v in verdicts(out)]
    assert cause_and_place == [(v["cause"], v["conference_sid"], v["outcome"]) for v in verdicts(whole)]
    # Numbered through: the third file does not begin at line 1 again.
    assert {verdict["at"][1] for verdict in verdicts(out)} == {len(lines)}


@pytest.mark.parametrize("zipped", [False, True])
def test_standard_input_is_a_file_too(tmp_path: Path, zipped: bool) -> None:
    data = BY_NUMBER[3].read_bytes()
    done = program("replay", "--format", "jsonl", "-", cwd=tmp_path, input=gzip.compress(data) if zipped else data)
    assert done.returncode == 0
    assert done.stderr.decode() == counted(9)
    assert [verdict["cause"] for verdict in verdicts(done.stdout)] == ["conference_api"]


def test_an_export_brings_partitions_offsets_and_arrivals(replay: Replaying, tmp_path: Path) -> None:
    """Two partitions, in the form of an export: the windows of one end while those of the other stay open."""
    recorded = next(line for line in lines_of(BY_NUMBER[5]) if b"recording.processed" in line)
    again = recorded.replace(b"RE00000000000000000005", b"RE00000000000000000055").replace(b"CA0000", b"CA5555")
    tick = b'{"specversion":"1.0","type":"dev.recording-monitor.tick","id":"t","data":{"sent_at":"","by":""}}'
    start_ms = 1_793_640_669_000
    hours = 3_600_000
    messages = [
        TopicMessage("events", 3, 700, start_ms, (), recorded),
        TopicMessage("events", 4, 20, start_ms, (("note", b"\xff"),), again),
        # Two, because the first is more than an hour ahead of all before it and so not believed yet.
        TopicMessage("events", 3, 701, start_ms + 5 * hours, (), tick),
        TopicMessage("events", 3, 702, start_ms + 5 * hours, (), tick),
        TopicMessage("events", 3, 703, start_ms + 5 * hours, (), b"\xff\n\x00"),
        TopicMessage("events", 3, 704, start_ms + 5 * hours, (), None),
    ]
    path = tmp_path / "exported.jsonl"
    path.write_bytes(b"\n".join(render(message) for message in messages))
    code, out, said = replay("--no-end", path)
    assert (code, said) == (0, counted(5, malformed=1))
    closed, still_open = verdicts(out)
    assert (closed["final"], still_open["final"]) == (True, False)
    assert (closed["at"], still_open["at"]) == ([0, 702], [0, 20])
    assert [shown["position"] for shown in closed["evidence"]] == ["3:700"]
    assert [shown["position"] for shown in still_open["evidence"]] == ["4:20"]


@pytest.mark.parametrize("arrival", ["together", "time"])
def test_the_account_settings_of_an_export_hold_from_the_beginning(
    replay: Replaying, tmp_path: Path, arrival: str
) -> None:
    events = lines_of(BY_NUMBER[8])
    setting = events.pop(1)
    path = tmp_path / "exported.jsonl"
    exported = [render(TopicMessage("events", 0, n, 1_793_640_000_000, (), line)) for n, line in enumerate(events)]
    path.write_bytes(b"\n".join([setting, *exported]))
    _, out, _ = replay("--arrival", arrival, "--no-end", path)
    assert [verdict["cause"] for verdict in verdicts(out)] == ["flex_stale_session"]


def test_lines_that_never_arrive_are_counted_and_tell_nothing(replay: Replaying, tmp_path: Path) -> None:
    recorded = next(line for line in lines_of(BY_NUMBER[5]) if b"recording.processed" in line)
    event = json.loads(recorded)
    del event["time"]
    path = tmp_path / "timeless.jsonl"
    path.write_bytes(b"not json\n" + json.dumps(event).encode())
    assert replay("--arrival", "time", "--no-end", path) == (0, b"", counted(2, malformed=1))


@pytest.mark.parametrize("arguments", [(), ("--topic", "events.jsonl"), ("--since", "1h", "events.jsonl")])
def test_files_or_the_topic_have_to_be_named_and_not_both(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = program("replay", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--topic" in done.stderr


def test_a_topic_out_of_reach_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "monitor.yaml").write_text('kafka: {bootstrap_servers: "127.0.0.1:1"}')
    done = program("replay", "--topic", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, b"")
    assert re.fullmatch(rb"recording-monitor: twilio-events: no broker answers: \S+\n", done.stderr)


def test_malformed_lines_are_counted_and_only_strictness_minds_them(replay: Replaying, tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    garbage = [b"not json", b"null", b'"text"', b"\xff\xfe", b"[" * 5000, b'{"type": "com.twilio.voice.x"}']
    path.write_bytes(b"\n".join(item for pair in zip(lines_of(BY_NUMBER[5]), garbage, strict=False) for item in pair))
    code, out, said = replay(path)
    # A type that nobody knows tells us nothing, but can be read.
    assert (code, said) == (0, counted(12, malformed=5, ignored=1))
    assert [verdict["cause"] for verdict in verdicts(out)] == ["dial_verb"]
    strict = replay("--strict", path)
    assert strict == (1, out, said)
    assert replay("--strict", BY_NUMBER[5])[0] == 0


def test_an_empty_file_has_no_verdicts_and_is_no_error(replay: Replaying, tmp_path: Path) -> None:
    for name, data in {"empty": b"", "blank": b"\n\n \n", "array": b"[]", "zipped": gzip.compress(b"")}.items():
        path = tmp_path / name
        path.write_bytes(data)
        assert replay("--strict", path) == (0, b"", counted(0)), name


# ------------------------------------------------------------------------------------------------ settings, policy


def test_the_policy_of_the_command_line_decides_and_the_built_in_one_without(replay: Replaying, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("policy: lenient\ndefault: allowed\nrules: []\n")
    assert [v["outcome"] for v in verdicts(replay(BY_NUMBER[5])[1])] == ["disallowed"]
    assert [v["outcome"] for v in verdicts(replay("--policy", policy, BY_NUMBER[5])[1])] == ["allowed"]


def test_secrets_that_a_replay_does_not_need_need_not_be_there(replay: Replaying, tmp_path: Path) -> None:
    config = tmp_path / "monitor.yaml"
    account = {"alias": "main", "sid": "AC" + "0" * 28 + "aa01", "auth_token_file": str(tmp_path / "not-here")}
    config.write_text(json.dumps({"accounts": [account]}))
    code, out, _ = replay("--config", config, BY_NUMBER[5])
    assert code == 0
    assert [verdict["alert"]["account"] for verdict in verdicts(out)] == ["main"]


# ------------------------------------------------------------------------------------------------------ exit codes


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl: there is no such file. Name a file of events"),
        (["."], ".: is a directory. Name a file of events"),
        ([], "name files of events"),
        (["-", "-"], "-: standard input can be read only once"),
        (["--arrival", "never", "-"], "never"),
        (["cut.gz"], "cut.gz: Compressed file ended before the end-of-stream marker"),
        (["--policy", "wrong.yaml", "-"], "wrong.yaml:2: unknown key 'defolt'"),
        (["--config", "wrong.yaml", "-"], "wrong.yaml:2: defolt: unknown key"),
    ],
)
def test_wrong_usage_ends_with_two_and_names_what_is_wrong(tmp_path: Path, arguments: list[str], says: str) -> None:
    (tmp_path / "cut.gz").write_bytes(gzip.compress(BY_NUMBER[5].read_bytes())[:200])
    (tmp_path / "wrong.yaml").write_text("policy: mine\ndefolt: allowed\n")
    done = program("replay", *arguments, cwd=tmp_path, input=b"")
    assert done.returncode == 2
    assert says in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_output_that_finds_no_room_is_out_of_reach(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "replay", str(BY_NUMBER[5])],
            cwd=tmp_path,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 3
    assert done.stderr == b"recording-monitor: the output could not be written: No space left on device\n"


def test_a_reader_who_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    day = tmp_path / "day.jsonl"
    assert run(["simulate", "--events", "3000", "--recorded", "1", "--out", str(day)]) == 0
    command = [sys.executable, "-c", PROGRAM, "replay", "--format", "jsonl", "--revisions", str(day)]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        told = process.stderr.read()
        process.wait(60)
    assert b"Traceback" not in told
    assert b"bug" not in told


# ---------------------------------------------------------------------------------------------- for people


def test_people_get_a_line_for_each_verdict(tmp_path: Path) -> None:
    done = program("replay", str(BY_NUMBER[15]), cwd=tmp_path)
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["allowed", "RE0000000000000000000f000000000002", "api_call_recording"],
        ["disallowed", "RE0000000000000000000f000000000001", "conference_twiml"],
    ]


def with_terminal(tmp_path: Path, *, stdout_too: bool) -> str:
    """Replay a file with a terminal for stderr; return what that terminal was sent."""
    ours, theirs = pty.openpty()
    out = theirs if stdout_too else os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    command = [sys.executable, "-c", PROGRAM, "replay", "--format", "jsonl", str(BY_NUMBER[8])]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(TERM="xterm"), stdin=subprocess.DEVNULL, stdout=out, stderr=theirs
    ) as process:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # What a terminal answers whose other end is closed.
            while data := os.read(ours, 65_536):
                said += data
        assert process.wait(60) == 0
    os.close(ours)
    return said.decode()


def test_progress_is_shown_on_a_terminal_and_nowhere_else(replay: Replaying, tmp_path: Path) -> None:
    assert "replaying" in with_terminal(tmp_path, stdout_too=False)
    # Verdicts and a bar on one terminal would spoil each other.
    assert "replaying" not in with_terminal(tmp_path, stdout_too=True)
    assert replay(BY_NUMBER[8])[2] == counted(16)
