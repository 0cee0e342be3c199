"""The OpenAPI document: it agrees with the routes, and random requests by it find no answer that it does not tell."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from admin_client import TOKEN, admin_service
from hypothesis import HealthCheck, Phase, given, settings
from needs import need
from servers import PATIENCE

from ratekeeper.service.admin.operation import Operation
from ratekeeper.service.http.admin_routes import OPERATIONS, PREFIX
from ratekeeper.service.http.admin_routes import ROUTES as ADMIN_ROUTES
from ratekeeper.service.http.openapi import document
from ratekeeper.service.http.routes import ROUTES

DOCUMENT: dict[str, Any] = json.loads(document())
PATHS: dict[str, Any] = DOCUMENT["paths"]
ALL = list(HealthCheck)
EXAMPLES = 4
"""The random requests of each kind, for each operation."""


def test_the_document_has_each_route_and_no_other() -> None:
    assert {path.encode() for path in PATHS} == {*ROUTES, *ADMIN_ROUTES}
    names = [one["operationId"] for path in PATHS.values() for one in path.values()]
    assert len(set(names)) == len(names)


def test_each_reference_leads_to_a_part_and_each_part_is_used() -> None:
    references = set(re.findall(r'"#/components/(\w+)/(\w+)"', document().decode()))
    parts = {(kind, name) for kind, some in DOCUMENT["components"].items() for name in some}
    assert references == parts - {("securitySchemes", "token")}


@pytest.mark.parametrize(("name", "operation"), OPERATIONS.items(), ids=list(OPERATIONS))
def test_an_operation_is_told_with_its_fields_and_its_key(name: str, operation: Operation) -> None:
    [(verb, told)] = PATHS[PREFIX + name].items()
    assert verb == ("get" if operation.fields is None else "post")
    assert told["security"] == [{"token": []}]
    assert ("parameters" in told) == ("409" in told["responses"]) == operation.changes
    assert {"400", "401", "403", "404", "503"} <= told["responses"].keys()
    if operation.fields is None:
        assert "requestBody" not in told
        return
    body = told["requestBody"]["content"]["application/json"]
    assert body["schema"]["properties"].keys() == operation.fields.keys()
    assert body["schema"]["additionalProperties"] is False
    required = [field for field, one in operation.fields.items() if one.required]
    assert body["schema"].get("required", []) == required
    assert all(operation.fields[field].right(value) for field, value in body["example"].items())


@pytest.mark.slow
def test_random_requests_find_no_answer_that_is_not_told(tmp_path: Path) -> None:
    need("schemathesis", find_spec("schemathesis") is not None)
    import schemathesis  # noqa: PLC0415  it takes a second

    tried = {True: 0, False: 0}
    with admin_service(tmp_path) as (service, _):
        told = httpx.get(f"{service.url}/openapi.json").json()
        assert told == DOCUMENT
        schema: Any = schemathesis.openapi.from_dict(_of_this_policy(told))
        for found in schema.exclude(path="/v1/status/events").get_all_operations():
            operation = found.ok()
            if not operation.path.endswith("/what-if"):  # each starts a process
                tried[True] += _try(operation.as_strategy(), service.url)
            if PATHS[operation.path].get("post", {}).get("security"):
                wrong = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
                tried[False] += _try(wrong, service.url)
        assert tried[True] >= EXAMPLES * len(OPERATIONS)
        assert tried[False] >= EXAMPLES * len(OPERATIONS) / 2
        assert "Traceback" not in service.log


def _of_this_policy(told: dict[str, Any]) -> dict[str, Any]:
    """The document with the names of the service's policy: with others, most requests would be refused at once."""
    for path in told["paths"].values():
        for operation in path.values():
            content = operation.get("requestBody", {}).get("content", {})
            properties = content.get("application/json", {}).get("schema", {}).get("properties", {})
            if "attributes" in properties:
                some = {name: {"type": "string"} for name in ("user", "path")}
                properties["attributes"] |= {"properties": some, "additionalProperties": False}
            if "rule" in properties:
                properties["rule"] = {"enum": ["each user", ["everyone"], ["each user", "queue"]]}
            if path.get("post", {}).get("operationId") in ("pause", "resume"):
                properties["rule"] = {"enum": ["each user", "everyone"]}
    return told


def _try(cases: Any, url: str) -> int:
    """Send some cases, and return how many. Raise for an answer that the document does not tell."""
    from schemathesis import checks  # noqa: PLC0415  it takes a second

    tried = 0

    @settings(
        max_examples=EXAMPLES, derandomize=True, database=None, phases=[Phase.generate], suppress_health_check=ALL
    )
    @given(cases)
    def send(case: Any) -> None:
        nonlocal tried
        tried += 1
        checked = [
            checks.not_a_server_error,
            checks.status_code_conformance,
            checks.content_type_conformance,
            checks.response_schema_conformance,
            checks.response_headers_conformance,
            checks.negative_data_rejection,
        ]
        headers = {"Authorization": f"Bearer {TOKEN}"}
        case.call_and_validate(base_url=url, headers=headers, checks=checked, timeout=PATIENCE)

    send()
    return tried
