"""``deploy/kafka-connect``: what arrives from Kinesis through Kafka Connect is what Twilio's webhook brings.

Kafka Connect's own converters are run, from the jars of its runtime; the connector itself needs AWS.
"""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from monitor.core.decode import account_of, decode, entries_of
from monitor.core.events import Event
from tests.broker import jars, java

ROOT: Final = Path(__file__).parents[1]
DEPLOY: Final = ROOT / "deploy" / "kafka-connect"
CONNECTOR: Final = json.loads((DEPLOY / "kinesis-source.json").read_text())
JSON: Final = "org.apache.kafka.connect.json.JsonConverter"

# What the connector's reference lists (camel-aws-kinesis-source, 4.18).
KAMELET: Final = {
    *("stream", "accessKey", "secretKey", "region", "useDefaultCredentialsProvider", "useProfileCredentialsProvider"),
    *("useSessionCredentials", "profileCredentialsName", "sessionToken", "uriEndpointOverride", "overrideEndpoint"),
    *("delay", "asyncClient", "useKclConsumers", "kclDisableCloudwatchMetricsExport"),
}
# Of those that all of Camel's source connectors have: https://camel.apache.org/camel-kafka-connector/.
CAMEL: Final = {"topics", "camel.source.camelMessageHeaderKey", "camel.map.headers", "camel.map.properties"}


class Run(NamedTuple):
    """What was written by each converter, and the settings that Kafka Connect knows."""

    written: list[bytes]
    known: set[str]
    of_producers: set[str]


def convert(data: bytes, *converters: str) -> Run:
    """Run Kafka Connect's converters over bytes."""
    classpath = f"{jars('connect-runtime', 'connect')}/*"
    command = [java(), "-cp", classpath, str(ROOT / "tests" / "Converters.java")]
    done = subprocess.run(
        [*command, base64.b64encode(data).decode(), *converters], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *written, known, of_producers = done.stdout.splitlines()
    return Run([base64.b64decode(line) for line in written], set(known.split(",")), set(of_producers.split(",")))


@pytest.mark.broker
def test_the_configured_converter_leaves_the_bytes_alone_and_the_json_converters_are_understood():
    [first, *_], body = decoded_samples()
    value = CONNECTOR["config"]["value.converter"]
    run = convert(body, value, f"{JSON}?schemas.enable=true", f"{JSON}?schemas.enable=false")

    assert run.written[0] == body
    for written in run.written:
        assert decode(written) == decode(body)
        assert [account_of(entry) for entry in entries_of(written)] == [account_of(entry) for entry in entries_of(body)]
    assert isinstance(first, Event)
    assert unknown(run) == set()


def unknown(run: Run) -> set[str]:
    """The keys of the configuration that neither Kafka Connect nor the connector knows."""
    found = set()
    for key in CONNECTOR["config"]:
        if key.startswith("producer.override."):
            known = key.removeprefix("producer.override.") in run.of_producers
        elif key.startswith("camel.kamelet."):
            known = key.removeprefix("camel.kamelet.aws-kinesis-source.") in KAMELET
        else:
            known = key in run.known | CAMEL
        if not known:
            found.add(key)
    return found


def decoded_samples() -> tuple[list[object], bytes]:
    """Events as the webhook brings them: what they are, and the body of the request."""
    body = (ROOT / "tests" / "samples" / "webhook-sink-body.batch.json").read_bytes()
    return list(decode(body)), body


def test_what_the_roles_may_do_is_bound_to_one_stream():
    for name in ("iam-connect.json", "iam-twilio.json"):
        policy = json.loads((DEPLOY / name).read_text())
        for statement in policy["Statement"]:
            assert not [action for action in statement["Action"] if action.endswith("*")]
            if statement["Resource"] == "*":
                # AWS knows no narrower resource for it.
                assert statement["Action"] == ["kinesis:DescribeLimits"]
