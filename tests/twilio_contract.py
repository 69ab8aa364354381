"""Twilio's own OpenAPI documents as a judge: is this a request Twilio takes, and is this an answer Twilio gives?

The documents (https://github.com/twilio/twilio-oai) are read from ``shared/twilio-openapi`` beside the repository and
are no part of it: ``Contract.find`` is None where they are missing, and ``MISSING`` says what is then not tested. Only
what the documents use of OpenAPI 3.0 is known here; anything else in a schema is an error, never passed over.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = Path("shared", "twilio-openapi")
MISSING: Final = (
    "Twilio's OpenAPI documents are not in ../shared/twilio-openapi: "
    "nobody checked what the stand-in for Twilio was asked and what it answered"
)
DOCUMENTS: Final = {
    "api": "twilio_api_v2010.json",
    "events": "twilio_events_v1.json",
    "flex-api": "twilio_flex_v1.json",
    "insights": "twilio_insights_v1.json",
    "monitor": "twilio_monitor_v1.json",
    "studio": "twilio_studio_v2.json",
    "taskrouter": "twilio_taskrouter_v1.json",
    "trunking": "twilio_trunking_v1.json",
}
"""The document of each product, by the first part of its host: ``events.twilio.com``, ``events.ie1.twilio.com``."""


def pattern_of(template: str) -> re.Pattern[str]:
    """What matches a path template (``/v1/Sinks/{Sid}``) and names its parts."""
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+?)", re.escape(template)))


class Operation(NamedTuple):
    """One thing that can be asked: where it stands in its document, and that document."""

    product: str
    template: str
    described: Mapping[str, Any]
    document: Mapping[str, Any]


class Contract:
    """The documents in one folder."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @classmethod
    def find(cls) -> Self | None:
        """Where the nearest folder above the repository holds them."""
        for above in ROOT.parents:
            if (above / FOLDER).is_dir():
                return cls(above / FOLDER)
        return None

    @functools.cache  # noqa: B019 - a handful of contracts in a run, and each document is read once.
    def document(self, product: str) -> Mapping[str, Any]:
        """The document of a product."""
        loaded: Mapping[str, Any] = json.loads((self._directory / DOCUMENTS[product]).read_bytes())
        return loaded

    @functools.cache  # noqa: B019 - see above.
    def _paths(self, product: str) -> list[tuple[str, re.Pattern[str]]]:
        # The most literal first: `/Configuration/Public` before `/Configuration/{Sid}`.
        templates = sorted(self.document(product)["paths"], key=lambda template: (template.count("{"), template))
        return [(template, pattern_of(template)) for template in templates]

    def operation(self, product: str, method: str, path: str) -> Operation | None:
        """What is asked by a method and a path; None: nothing that the document knows."""
        if product not in DOCUMENTS:
            return None
        document = self.document(product)
        for template, pattern in self._paths(product):
            described = document["paths"][template].get(method.lower())
            if described is not None and pattern.fullmatch(path):
                return Operation(product, template, described, document)
        return None

    def check_request(
        self,
        product: str,
        method: str,
        path: str,
        query: Mapping[str, Sequence[str]],
        form: Mapping[str, Sequence[str]],
    ) -> list[str]:
        """Say what is wrong with a request, a line each. Headers beside credentials are not looked at."""
        operation = self.operation(product, method, path)
        if operation is None:
            return [f"{product} has no {method} {path}"]
        parameters = operation.described.get("parameters", [])
        matched = pattern_of(operation.template).fullmatch(path)
        assert matched is not None
        schemas = {
            "path": {each["name"]: each["schema"] for each in parameters if each["in"] == "path"},
            "query": {each["name"]: each["schema"] for each in parameters if each["in"] == "query"},
        }
        body = operation.described.get("requestBody", {}).get("content", {})
        asked = body.get("application/x-www-form-urlencoded", {}).get("schema", {})
        fields = asked.get("properties", {})
        judge = _Judge(operation.document)
        found = [
            *judge.texts("path", schemas["path"], {name: [value] for name, value in matched.groupdict().items()}),
            *judge.texts("query", schemas["query"], query),
            *judge.texts("form", fields, form),
        ]
        found += [f"form: {name} is missing" for name in asked.get("required", ()) if name not in form]
        return [f"{method} {path}: {line}" for line in found]

    def check_answer(self, product: str, method: str, path: str, status: int, body: object) -> list[str]:
        """Say what is wrong with an answer; ``body`` None means none. The documents do not describe errors."""
        operation = self.operation(product, method, path)
        if operation is None or status >= 400:
            return []
        described = operation.described["responses"].get(str(status))
        if described is None:
            return [f"{method} {path}: never answered {status}"]
        content = described.get("content", {})
        if not content:
            return [] if body is None else [f"{method} {path}: {status} has no body"]
        schema = content["application/json"]["schema"]
        return [f"{method} {path}: {line}" for line in _Judge(operation.document).value("answer", schema, body)]


def _is_date_time(text: str) -> bool:
    return re.fullmatch(r"\d{4}-\d\d-\d\dT.+(?:Z|[+-]\d\d:\d\d)", text) is not None and _parses(
        datetime.fromisoformat, text
    )


def _parses(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def _any(_: object) -> bool:
    return True


_FORMATS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "date-time": _is_date_time,
    "date-time-rfc-2822": lambda text: _parses(parsedate_to_datetime, text),
    "date": lambda text: _parses(date.fromisoformat, text),
    "uri": lambda text: re.fullmatch(r"(?:https?://[^/\s]+)?/\S*", text) is not None,  # The oldest API's are relative.
    "uri-map": lambda links: all(isinstance(link, str) for link in links.values()),
    "http-method": lambda text: text in {"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"},
    **dict.fromkeys(("int32", "int64", "float", "phone-number", "phone-number-capabilities", "iso-country-code"), _any),
    **dict.fromkeys(("currency", "endpoint", "twiml", "ice-server"), _any),
}
_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}
_KNOWN: Final = frozenset(
    {"$ref", "additionalProperties", "default", "description", "enum", "example", "format", "items", "maxLength"}
    | {"maxProperties", "maximum", "minLength", "minimum", "nullable", "pattern", "properties", "required", "title"}
    | {"type"}
)


class _Judge:
    """Holds values against the schemas of one document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def texts(self, where: str, schemas: Mapping[str, Any], given: Mapping[str, Sequence[str]]) -> Iterator[str]:
        """What is wrong with values as they stand in an address or a form: all of them text."""
        for name, values in given.items():
            schema = schemas.get(name)
            if schema is None:
                yield f"{where}: {name} is nothing that is known there"
                continue
            schema = self._resolved(schema)
            if schema.get("type") == "array":
                for value in values:
                    yield from self.value(f"{where}: {name}", schema.get("items", {}), value)
            elif len(values) != 1:
                yield f"{where}: {name} is there {len(values)} times"
            else:
                yield from self.value(f"{where}: {name}", schema, _from_text(schema, values[0]))

    def value(self, where: str, schema: Mapping[str, Any], value: object) -> Iterator[str]:
        """What is wrong with a value."""
        schema = self._resolved(schema)
        unknown = {key for key in schema if not key.startswith("x-")} - _KNOWN
        assert not unknown, f"{where}: {unknown} in a schema is nothing that this file knows"
        if value is None:
            if not schema.get("nullable") and "type" in schema:
                yield f"{where} is null"
            return
        kind = schema.get("type")
        if kind is not None:
            right = isinstance(value, _KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))
            if not right:
                yield f"{where} is {value!r}, which is no {kind}"
                return
        yield from self._bounds(where, schema, value)
        if isinstance(value, dict):
            yield from self._properties(where, schema, value)
        if isinstance(value, list):
            for index, element in enumerate(value):
                yield from self.value(f"{where}[{index}]", schema.get("items", {}), element)

    def _bounds(self, where: str, schema: Mapping[str, Any], value: Any) -> Iterator[str]:
        if "enum" in schema and value not in schema["enum"]:
            yield f"{where} is {value!r}, which is none of {schema['enum']}"
        if "pattern" in schema and re.search(schema["pattern"], value) is None:
            yield f"{where} is {value!r}, which does not match {schema['pattern']}"
        if isinstance(value, str) and not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 1 << 30):
            yield f"{where} has {len(value)} characters"
        if ("minimum" in schema and value < schema["minimum"]) or ("maximum" in schema and value > schema["maximum"]):
            yield f"{where} is {value}, which is out of range"
        if "format" in schema and not _FORMATS[schema["format"]](value):
            yield f"{where} is {value!r}, which is no {schema['format']}"

    def _properties(self, where: str, schema: Mapping[str, Any], value: Mapping[str, Any]) -> Iterator[str]:
        known = schema.get("properties")
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{where}.{name} is missing"
        if known is None:
            return  # Any object at all, such as a map of links.
        for name, inner in value.items():
            if name in known:
                yield from self.value(f"{where}.{name}", known[name], inner)
            else:
                yield f"{where}.{name} is nothing that is known there"

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in schema:
            found: Any = self._document
            for part in schema["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            schema = found
        return schema


def _from_text(schema: Mapping[str, Any], text: str) -> object:
    """A value as its text stands for it; the text itself where it stands for none."""
    kind = schema.get("type")
    if kind == "boolean" and text in ("true", "false"):
        return text == "true"
    if kind in ("integer", "number", "object"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text
