"""Settings: what is accepted, what is refused and how it is said, and that no secret is ever shown."""

from __future__ import annotations

import json
import string
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from monitor.settings import (
    MASK,
    Address,
    SecretError,
    SecretFile,
    SettingsError,
    format_duration,
    format_size,
    is_secret_property,
    kafka_client,
    load_settings,
    masked,
    parse_address,
    parse_duration,
    parse_size,
)
from monitor.yaml_lines import ANCHORS_MAX, DEPTH_MAX, YamlError, load, read

SID = "AC" + "0" * 32
SECRET = "correct-horse-battery"


@pytest.fixture
def write(tmp_path: Path):
    def write_(text: str, name: str = "monitor.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_


def problems(path: Path | None, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        load_settings(path, environ or {})
    lines = str(raised.value).splitlines()
    return [line.replace(str(path), "monitor.yaml") for line in lines]


# --- What is given, and by whom


def test_without_a_file_the_defaults_of_the_design_hold(tmp_path):
    settings = load_settings(None, {"RECORDING_MONITOR_CONFIG": "/dev/null"})

    assert settings.window == timedelta(hours=4)
    assert settings.grace == timedelta(seconds=60)
    assert settings.flex.session_max == timedelta(hours=24)
    assert settings.cases.retention == timedelta(days=400)
    assert settings.cases.hold == timedelta(minutes=15)
    assert settings.topics.events == "twilio-events"
    assert settings.kafka.start_at is None


def test_every_key_of_a_full_file_arrives_typed(write):
    settings = load_settings(
        write(
            f"""
            kafka:
              bootstrap_servers: [kafka-1:9092, kafka-2:9092]
              group_id: monitor-eu
              start_at: 2026-11-21T09:00:00+01:00
              client: {{security.protocol: SASL_SSL, socket.keepalive.enable: true, session.timeout.ms: 30000}}
            topics: {{events: twilio}}
            window: PT2H30M
            grace: 90s
            policy: policy.yaml
            accounts:
              - {{alias: main, sid: {SID}, region: ie1, edge: dublin, subaccounts: all}}
            starters:
              - {{callback_url: "https://plugin.example.com/*", name: dual-channel plugin}}
            flex: {{session_max: 12h}}
            alertmanagers: [http://am-1:9093/, http://am-2:9093]
            web: {{listen: "[::1]:9000", external_url: https://monitor.example.com/, actions: true}}
            ingest:
              enabled: true
              listen: ":8443"
              public_url: https://in.example.com/events
              trusted_proxies: [10.0.0.0/8]
              sources: [35.90.102.128/25]
            cases: {{retention: 90d, resolve_on: deleted}}
            log: {{format: json, level: debug}}
            """
        ),
        {},
    )

    assert settings.kafka.bootstrap_servers == "kafka-1:9092,kafka-2:9092"
    assert settings.kafka.start_at == datetime(2026, 11, 21, 8, tzinfo=UTC)
    assert settings.kafka.client == {
        "security.protocol": "SASL_SSL",
        "socket.keepalive.enable": "true",
        "session.timeout.ms": "30000",
    }
    assert settings.window == timedelta(hours=2, minutes=30)
    assert settings.grace == timedelta(seconds=90)
    assert settings.policy is not None
    assert settings.policy.is_absolute()
    assert (settings.accounts[0].alias, settings.accounts[0].subaccounts) == ("main", "all")
    assert settings.starters[0].cause == "flex_plugin"
    assert [one.url for one in settings.alertmanagers] == ["http://am-1:9093", "http://am-2:9093"]
    assert settings.web.listen == Address("::1", 9000)
    assert settings.web.actions is True
    assert settings.ingest.listen == Address("", 8443)
    assert settings.ingest.trusted_proxies == ("10.0.0.0/8",)
    assert settings.ingest.sources == ("35.90.102.128/25",)
    assert settings.cases.resolve_on == "deleted"


def test_the_environment_wins_over_the_file_key_by_key(write):
    path = write("kafka: {bootstrap_servers: file:1, group_id: file, client: {a.b: '1', c.d: '2'}}\nwindow: 1h\n")
    settings = load_settings(
        path,
        {
            "RECORDING_MONITOR_KAFKA__GROUP_ID": "variable",
            "RECORDING_MONITOR_KAFKA__CLIENT": '{"c.d": 3}',
            "RECORDING_MONITOR_KAFKA__CLIENT__E_F": "4",
            "RECORDING_MONITOR_WINDOW": "2h",
            "UNRELATED": "x",
        },
    )

    assert settings.kafka.bootstrap_servers == "file:1"
    assert settings.kafka.group_id == "variable"
    assert settings.kafka.client == {"a.b": "1", "c.d": "3", "e.f": "4"}
    assert settings.window == timedelta(hours=2)
    assert settings.where("window") == "RECORDING_MONITOR_WINDOW: window"
    assert settings.where("kafka.bootstrap_servers") == f"{path}:1: kafka.bootstrap_servers"
    assert settings.where("grace") == "grace"


@pytest.mark.parametrize("text", [json.dumps([{"alias": "main", "sid": SID}]), f"- alias: main\n  sid: {SID}"])
def test_lists_come_from_a_variable_as_json_or_yaml(text):
    settings = load_settings(Path("/dev/null"), {"RECORDING_MONITOR_ACCOUNTS": text})

    assert [account.alias for account in settings.accounts] == ["main"]


def test_a_text_in_a_variable_is_taken_as_it_stands():
    settings = load_settings(Path("/dev/null"), {"RECORDING_MONITOR_KAFKA__GROUP_ID": "0123"})

    assert settings.kafka.group_id == "0123"


def test_an_empty_variable_and_an_empty_key_count_as_not_given(write):
    settings = load_settings(write("policy:\nkafka: {group_id: mine}\n"), {"RECORDING_MONITOR_KAFKA__GROUP_ID": ""})

    assert settings.policy is None
    assert settings.kafka.group_id == "mine"


def test_relative_paths_count_from_the_file_they_stand_in(write):
    path = write("policy: policies/live.yaml\n")

    assert load_settings(path, {}).policy == path.parent / "policies/live.yaml"
    assert load_settings(path, {"RECORDING_MONITOR_POLICY": "live.yaml"}).policy == Path("live.yaml")


def test_variables_kubernetes_makes_for_a_service_of_our_name_are_no_settings():
    links = {
        "RECORDING_MONITOR_SERVICE_HOST": "10.0.0.1",
        "RECORDING_MONITOR_SERVICE_PORT": "9464",
        "RECORDING_MONITOR_SERVICE_PORT_HTTP": "9464",
        "RECORDING_MONITOR_PORT": "tcp://10.0.0.1:9464",
        "RECORDING_MONITOR_PORT_9464_TCP": "tcp://10.0.0.1:9464",
        "RECORDING_MONITOR_PORT_9464_TCP_ADDR": "10.0.0.1",
        "RECORDING_MONITOR_WEB_SERVICE_HOST": "10.0.0.1",
    }

    assert masked(load_settings(Path("/dev/null"), links)) == masked(load_settings(Path("/dev/null"), {}))


# --- What is refused, and in which words


def test_an_error_names_file_line_key_and_remedy(write):
    assert problems(write("window: 4h\nkafka:\n  group_id: g\n  bootstrap_server: a:9092\n")) == [
        "monitor.yaml:4: kafka.bootstrap_server: unknown key. Did you mean 'bootstrap_servers'?"
    ]


def test_all_problems_are_told_at_once_in_the_order_of_the_file(write):
    told = problems(write("grace: 0s\nwindow: 5\nlog: {level: loud}\nweb: {listen: 9464}\n"))

    assert [line.split(":")[1] for line in told] == ["1", "2", "3", "4"]
    assert "Did you mean '5s'?" in told[1]
    assert "':9464'" in told[3]


def test_what_is_missing_is_told_where_it_is_missing(write):
    told = problems(write("accounts:\n  - region: IE 1\n    alias: Main\n"))

    assert [line.split(":")[:3] for line in told] == [
        ["monitor.yaml", "2", " accounts[0].region"],
        ["monitor.yaml", "2", " accounts[0].sid"],
        ["monitor.yaml", "3", " accounts[0].alias"],
    ]


def test_a_misspelt_variable_is_told_by_the_name_it_should_have():
    told = problems(Path("/dev/null"), {"RECORDING_MONITOR_KAFKA__BOOTSTRAP_SERVER": "a:1"})

    key = "RECORDING_MONITOR_KAFKA__BOOTSTRAP_SERVER"
    assert told == [f"{key}: kafka.bootstrap_server: unknown key. Did you mean '{key}S'?"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("group_id: g", "1: group_id: unknown key. Did you mean 'kafka.group_id'?"),
        ("window: four", "'four' is not a span"),
        ("window: 30h", "out of range. Give between 1m and 24h"),
        ("window: 2m\ngrace: 2m", "2: grace: must be less than the window (2m)"),
        ("kafka: {group_id: 7}", "must be text, and is a number. Put it in quotes"),
        ("kafka: a:9092", "kafka: must be a map of keys, and is text"),
        ("kafka: {bootstrap_servers: 'http://x y'}", "Write it like kafka-1:9092,kafka-2:9092"),
        ("kafka: {start_at: 2026-11-21T08:00:00}", "has no time zone"),
        ("kafka: {start_at: yesterday}", "Write earliest, latest, how long ago"),
        ("kafka: {client: {group.id: x}}", "kafka.client.group.id: belongs into kafka.group_id"),
        ("kafka: {client: {enable.auto.commit: true}}", "is set by the monitor"),
        ("kafka: {client: {sasl.mechanism_file: x}}", "only secrets are read from files"),
        ("kafka: {client: {a: [1]}}", "kafka.client.a: must be text, a number, true or false, and is a list"),
        ("topics: {events: 'a b'}", "not a name Kafka takes"),
        ("topics: {events: x, verdicts: x}", "is also the name of topics.events"),
        ("accounts: {alias: a}", "accounts: must be a list, and is a map"),
        ("accounts: [{alias: a}]", "1: accounts[0].sid: missing"),
        (f"accounts: [{{alias: other, sid: {SID}}}]", "'other' stands for all accounts without an alias"),
        (f"accounts: [{{alias: a, sid: {SID}}}, {{alias: b, sid: {SID}}}]", "is that of accounts[0] already"),
        (f"accounts: [{{alias: a, sid: {SID}, api_key_sid: SK{'0' * 32}}}]", "needs both"),
        (f"accounts: [{{alias: {SID}, sid: {SID}}}]", "accounts[0].alias: is not an alias"),
        ("starters: [{callback_url: 'https://x/?a', name: n}]", "holds a query"),
        ("starters: [{callback_url: 'https://x/*', name: n, cause: flex_plugins}]", "Did you mean 'flex_plugin'?"),
        ("alertmanagers: http://a:9093", "must be a list, and is text"),
        ("alertmanagers: ['am:9093']", "is not an address"),
        ("alertmanagers: ['http://a', 'http://a/']", "names one of them twice"),
        (f"alertmanagers: {[f'http://a{n}' for n in range(11)]}", "are more than 10"),
        ("alertmanagers: [{username: me}]", "alertmanagers[0].url: missing"),
        ("alertmanagers: [{url: 'http://a', username: me}]", "needs both of username and password_file"),
        ("alertmanagers: [{url: 'http://a', password: me}]", "name that by 'password_file'"),
        ("alertmanagers: [{url: 'http://a', ca_file: ca.pem}]", "is for https, and the address is http"),
        ("alertmanagers: [{url: 'https://a', ca_file: no-such.pem}]", "names a file that is not there"),
        ("web: {actions: on}", "must be true or false, and is 'on'"),
        ("web: {recording_url_template: 'https://x/'}", "Put {recording_sid}"),
        ("web: {recording_url_template: 'https://x/{recording_sid}/{name}'}", "has other braces"),
        ("ingest: {enabled: true}", "needs ingest.public_url"),
        ("ingest: {trusted_proxies: [10.0.0.1/8]}", "is not a network"),
        ("ingest: {body_max: 1MiBs}", "is not a size"),
        ("cases: {resolve_on: end}", "must be one of ended, deleted. Did you mean 'ended'?"),
        ("- a", "must be a map of keys, and is a list"),
        ("a: 1\na: 2", "2: duplicate key 'a'"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_what_is_wrong_is_said_with_its_remedy(write, text, said):
    told = problems(write(text))

    assert len(told) == 1
    assert said in told[0]
    assert told[0].startswith("monitor.yaml:")


def test_a_file_that_is_not_there_is_told_by_its_name(tmp_path):
    assert problems(tmp_path / "nowhere.yaml")[0].endswith(
        "cannot be read: No such file or directory. Name an existing file with --config"
    )


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RECORDING_MONITOR_WINDOW__SIZE", "1", "window: holds no keys"),
        ("RECORDING_MONITOR_ACCOUNTS", "[{", "accounts: not readable as YAML"),
        ("RECORDING_MONITOR_ACCOUNTS", "main", "must be a list, and is text"),
        ("RECORDING_MONITOR_ACCOUNTS__0__SID", SID, "accounts: holds no keys"),
        ("RECORDING_MONITOR_WEB__ACTIONS", "yes", "must be true or false, and is 'yes'"),
        ("RECORDING_MONITOR_", "x", "unknown key"),
    ],
)
def test_a_wrong_variable_is_told_by_its_name(name, value, said):
    told = problems(Path("/dev/null"), {name: value})

    assert len(told) == 1
    assert told[0].startswith(f"{name}: ")
    assert said in told[0]


# --- Secrets


def test_secrets_of_the_kafka_client_are_read_from_files_beside_the_settings(write):
    write(f"{SECRET}\r\n", "password")
    settings = load_settings(
        write("kafka: {bootstrap_servers: 'a:9093', client: {sasl.username: monitor, sasl.password_file: password}}"),
        {},
    )

    assert kafka_client(settings) == {
        "bootstrap.servers": "a:9093",
        "sasl.username": "monitor",
        "sasl.password": SECRET,
    }
    assert SECRET not in json.dumps(masked(settings))
    assert SECRET not in repr(settings)


def test_a_secrets_file_is_named_in_a_variable_as_well(write):
    path = write(SECRET, "key")
    environ = {
        "RECORDING_MONITOR_KAFKA__BOOTSTRAP_SERVERS": "a:1",
        "RECORDING_MONITOR_KAFKA__CLIENT__SSL_KEY_PASSWORD_FILE": str(path),
    }

    assert kafka_client(load_settings(Path("/dev/null"), environ))["ssl.key.password"] == SECRET


def test_a_file_of_several_secrets_is_read_line_by_line(tmp_path):
    file = tmp_path / "tokens"
    file.write_text("\ufeffpresent\r\n\n  before \n")

    assert SecretFile(file).lines() == ("present", "before")


def test_a_secret_in_plain_text_is_taken_with_a_warning_and_masked(write):
    settings = load_settings(write(f"kafka:\n  bootstrap_servers: a:1\n  client:\n    sasl.password: {SECRET}\n"), {})

    assert kafka_client(settings)["sasl.password"] == SECRET
    assert masked(settings)["kafka"]["client"]["sasl.password"] == MASK
    assert len(settings.warnings) == 1
    assert ":4: kafka.client.sasl.password: a secret in plain text" in settings.warnings[0]
    assert SECRET not in settings.warnings[0]


@pytest.mark.parametrize(
    "text",
    [
        f"accounts: [{{alias: a, sid: {SID}, auth_token_file: {SECRET}}}]",
        f"accounts: [{{alias: a, sid: {SID}, auth_token: {SECRET}}}]",
        f"accounts: [{{alias: a, sid: {SID}, api_key_sid: {SECRET}}}]",
        f"accounts: [{{alias: a, sid: {SECRET}}}]",
        f"kafka: {{client: {{sasl.password_file: {SECRET}}}}}",
        f"kafka: {{client: {{sasl.password: x, sasl.password_file: {SECRET}}}}}",
        f"kafka: {{client: {{sasl.password: [{SECRET}]}}}}",
        f"kafka: {{client: {{sasl.password: *{SECRET}}}}}",
        f"kafka: {{client: {{sasl.password: !{SECRET}}}}}",
        f"kafka: {{client: {{sasl.password: '{SECRET}'}}, nonsense: 1}}",
        f"alertmanagers: ['http://user:{SECRET}@am:9093']",
        f"alertmanagers: ['http://am:9093/?token={SECRET}']",
        f"window: {SECRET}{SECRET}",
    ],
)
def test_no_error_repeats_what_may_be_a_secret(write, text):
    told = problems(write(text))

    assert not any(SECRET in line for line in told)


def test_a_token_in_place_of_its_file_is_masked_where_files_are_not_asked_for(write):
    text = f"accounts: [{{alias: a, sid: {SID}, auth_token_file: {SECRET}}}]\n"
    text += f"kafka: {{client: {{sasl.password_file: {SECRET}}}}}"
    settings = load_settings(write(text), {}, secrets=False)

    assert SECRET not in json.dumps(masked(settings))


def test_a_secrets_file_must_hold_one(write, tmp_path):
    (tmp_path / "large").write_bytes(b"x" * 70_000)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xfd")
    for name, said in (("large", "too large"), ("binary", "not text"), ("none", "No such file"), (".", "directory")):
        with pytest.raises(SecretError, match=said):
            SecretFile(tmp_path / name).read()
    with pytest.raises(SecretError, match="empty"):
        SecretFile(write("\n", "blank")).read()


def test_the_secrets_of_librdkafka_are_known_by_their_names():
    for name in (
        "sasl.password",
        "ssl.key.password",
        "ssl.keystore.password",
        "ssl.key.pem",
        "sasl.oauthbearer.config",
    ):
        assert is_secret_property(name)
    for name in ("sasl.oauthbearer.client.secret", "sasl.oauthbearer.assertion.private.key.passphrase"):
        assert is_secret_property(name)
    for name in ("sasl.username", "ssl.ca.location", "sasl.oauthbearer.token.endpoint.url", "client.id"):
        assert not is_secret_property(name)


def test_no_broker_is_an_error_only_where_one_is_needed():
    settings = load_settings(Path("/dev/null"), {})

    with pytest.raises(SettingsError, match="RECORDING_MONITOR_KAFKA__BOOTSTRAP_SERVERS"):
        kafka_client(settings)


def test_what_config_print_prints_gives_the_same_settings_again(write):
    path = write(f"window: 90m\ngrace: 1m30s\naccounts: [{{alias: a, sid: {SID}}}]\nweb: {{listen: ':0'}}\n")
    once = masked(load_settings(path, {}))

    assert masked(load_settings(write(yaml.safe_dump(once), "again.yaml"), {})) == {
        **once,
        "cases": {**once["cases"], "database": str(path.parent / once["cases"]["database"])},
    }


# --- Spans, sizes, addresses


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("500ms", timedelta(milliseconds=500)),
        ("60s", timedelta(minutes=1)),
        ("1.5h", timedelta(minutes=90)),
        ("1h30m", timedelta(minutes=90)),
        ("7d", timedelta(days=7)),
        ("PT4H", timedelta(hours=4)),
        ("P1DT12H", timedelta(hours=36)),
        ("P2W", timedelta(weeks=2)),
        ("PT0.5S", timedelta(milliseconds=500)),
        ("0s", timedelta(0)),
    ],
)
def test_a_span_is_read_as_people_and_as_iso_8601_write_it(text, span):
    assert parse_duration(text) == span


@pytest.mark.parametrize("text", ["", "60", "4 hours", "h", "P", "PT", "P1Y", "1h1h", "-1s", "1e3s", "１s", "4H"])
def test_what_is_no_span_is_refused(text):
    with pytest.raises(ValueError, match="is not a span"):
        parse_duration(text)


@given(st.integers(0, 10**11))
def test_a_span_that_is_written_reads_back_the_same(ms):
    span = timedelta(milliseconds=ms)

    assert parse_duration(format_duration(span)) == span


@given(st.integers(0, 10**12))
@example(4 << 20)
def test_a_size_that_is_written_reads_back_the_same(size):
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(("text", "size"), [("4096", 4096), ("1KiB", 1024), ("1KB", 1000), ("4 MiB", 4 << 20)])
def test_sizes_tell_thousands_from_kibi(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "address", [Address("127.0.0.1", 9464), Address("::1", 0), Address("", 65535), Address("monitor.example.com", 80)]
)
def test_an_address_that_is_written_reads_back_the_same(address):
    assert parse_address(str(address)) == address


@pytest.mark.parametrize("text", ["9464", "a:65536", "a b:1", "::1:80", "[::1]", "http://a:80", "u@h:1"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="is not an address"):
        parse_address(text)


# --- YAML with lines


def test_every_value_knows_its_line():
    document = load("a: 1\nb:\n  - c: x\n    d:\n      - 1\n      - 2\n\ne: |\n  text\nf: end\n", "p.yaml")

    lines = {path: document.line(path) for path in [("a",), ("b",), ("b", 0, "c"), ("b", 0, "d", 1), ("e",), ("f",)]}
    assert list(lines.values()) == [1, 2, 3, 6, 8, 10]
    assert document.line(("b", 0, "missing")) == 3
    assert document.line(("nothing",)) == 1
    assert ("b", 0, "c") in document
    assert ("b", 0, "missing") not in document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2026-12-31", "2026-12-31"),
        ("+15550100", "+15550100"),
        ("0123", "0123"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("1e3", "1e3"),
        ("-12", -12),
        ("1.50", 1.5),
        ("true", True),
        ("~", None),
        ("'1'", "1"),
        ("9" * 30, "9" * 30),
    ],
)
def test_a_scalar_is_what_it_looks_like_and_no_more(text, value):
    found = load(f"k: {text}", "p.yaml").value["k"]

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "---\n...\n"])
def test_an_empty_document_is_none(text):
    assert load(text, "p.yaml").value is None


def test_an_alias_stands_for_its_anchor_and_keeps_the_lines_of_what_is_inside():
    document = load("a: &x\n  b: 1\nc: *x\n", "p.yaml")

    assert document.value == {"a": {"b": 1}, "c": {"b": 1}}
    assert document.line(("c",)) == 3
    assert document.line(("c", "b")) == 2


def _laughs(levels: int) -> str:
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: 1\nb: 2\na: 3", 3, "stands on line 1 already"),
        ("a: !!python/object/apply:os.system [ls]", 1, "tags are not read"),
        ("a: !!str 1", 1, "tags are not read"),
        ("a:\n  <<: {b: 1}", 2, "merge keys"),
        ("? [1]\n: 2", 1, "a key must be plain text"),
        ("a: 1\n---\nb: 2", 2, "a second document"),
        ("a: *b", 1, "begins with '*'"),
        ("a: &a [*a]", 1, "begins with '*'"),
        ("[" * 100_000, 1, f"nested more than {DEPTH_MAX} deep"),
        (_laughs(12), 5, "more than 100000 values"),
        ("\n".join(f"k{i}: &x{i} 1" for i in range(1_000)), ANCHORS_MAX + 1, "anchors"),
        ("a: 1\nb: \x07", 2, "U+0007"),
        ("a: 1\n\tb: 2", 2, "not readable as YAML"),
        ("x" * (1 << 21), 1, "larger than"),
    ],
)
def test_what_is_not_safe_to_read_is_refused_where_it_stands(text, line, said):
    with pytest.raises(YamlError) as raised:
        load(text, "p.yaml")

    assert (raised.value.path, raised.value.line) == ("p.yaml", line)
    assert said in raised.value.message
    assert str(raised.value).startswith(f"p.yaml:{line}: ")


def test_a_file_that_is_not_utf_8_is_refused_where_it_stops_being_it(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_bytes(b"a: 1\nb: \xff\n")

    with pytest.raises(YamlError, match=":2: not UTF-8"):
        read(path)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_bytes("\ufeffa: 1\n".encode())

    assert read(path).value == {"a": 1}


_texts = st.text(string.printable, max_size=200) | st.text(max_size=60)


@given(_texts)
def test_no_text_makes_the_reader_raise_anything_but_its_own_error(text):
    lines = 1
    try:
        load(text, "p.yaml")
    except YamlError as error:
        lines = error.line

    assert 1 <= lines <= len(text.splitlines()) + 1


_plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.text(string.ascii_letters + "-: #'\"", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(string.ascii_letters, min_size=1), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(_plain)
def test_json_reads_as_the_values_json_means(value):
    assert load(json.dumps(value), "p.yaml").value == value
