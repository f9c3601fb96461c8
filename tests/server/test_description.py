"""The API's own description: whoever reads nothing else learns what each operation and each field is."""

import json
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter, ValidationError

from gpve.server.access import flow_of
from gpve.server.http.app import build
from gpve.server.sentences import PATTERNS, bad_body, sentence
from gpve.tasks.flows.agent_program import Check

METHODS = ("get", "post", "put", "delete")


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    found: dict[str, Any] = build(None).openapi()  # type: ignore[arg-type]
    return found


def test_every_operation_says_what_it_does(described: dict[str, Any]) -> None:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert method in METHODS
            for name in ("summary", "description"):
                text = operation.get(name, "")
                assert len(text) > 6, (method, path, name)
                assert text == text.strip()
                assert "``" not in text, (method, path, text)
            for parameter in operation.get("parameters", ()):
                assert parameter.get("description"), (method, path, parameter["name"])


def test_every_field_says_what_it_is(described: dict[str, Any]) -> None:
    count = 0
    for name, schema in described["components"]["schemas"].items():
        assert schema.get("description"), name
        for field, told in schema.get("properties", {}).items():
            assert told.get("description"), f"{name}.{field}"
            count += 1
    assert count > 200


def test_an_operation_names_what_it_can_answer_and_no_more(described: dict[str, Any]) -> None:
    def statuses(path: str, method: str) -> set[int]:
        return {int(status) for status in described["paths"][f"/api/v1{path}"][method]["responses"]}

    always = {401, 422, 503}
    assert statuses("/nodes", "get") == {200, *always}
    assert statuses("/vms/{guest}/start", "post") == {202, 404, 409, 412, 429, *always}
    assert statuses("/vms", "post") == {202, 400, 403, 404, 409, 413, 415, 429, *always}
    assert statuses("/watch", "get") == {200, 410, *always}
    assert 410 not in set().union(
        *(
            statuses(path.removeprefix("/api/v1"), method)
            for path, methods in described["paths"].items()
            for method in methods
            if path != "/api/v1/watch"
        )
    )


def test_every_pattern_has_a_sentence(described: dict[str, Any]) -> None:
    def patterns(told: Any) -> set[str]:
        inside = told.values() if isinstance(told, dict) else told if isinstance(told, list) else ()
        here = {told["pattern"]} if isinstance(told, dict) and isinstance(told.get("pattern"), str) else set()
        return here.union(*map(patterns, inside))

    assert patterns(described) <= set(PATTERNS)


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({}, "name", "it must be said"),
    ({"name": "A"}, "name", "lower-case letters, digits, dots and dashes are wanted"),
    ({"size": 5}, "size", "there is no such field"),
    ({"disks": []}, "disks", "1 or more are wanted"),
    ({"cpu_milli": "5"}, "cpu_milli", "a whole number is wanted"),
    ({"cpu_milli": 0}, "cpu_milli", "1 or more is wanted"),
    ({"gpu_count": 65}, "gpu_count", "64 or less is wanted"),
    ({"node": ""}, "node", "1 or more characters are wanted"),
    ({"autostart": "yes"}, "autostart", "true or false is wanted"),
    ({"networks": "lan"}, "networks", "a list is wanted"),
]


@pytest.mark.parametrize(("body", "field", "told"), BAD, ids=[told for *_, told in BAD])
def test_what_is_wrong_is_told_in_our_words(body: dict[str, Any], field: str, told: str) -> None:
    with pytest.raises(ValidationError) as error:
        flow_of("vm_create").body.model_validate(body)
    found = {".".join(map(str, one["loc"])) or "body": sentence(one) for one in error.value.errors()}
    assert found[field].startswith(told)


def test_what_is_wrong_with_two_fields_together_is_told_in_our_words() -> None:
    with pytest.raises(ValidationError) as error:
        Check.model_validate({"tcp_port": 1, "http_port": 1})
    assert bad_body("x", error.value).problem == "exactly one of exec, http_port, tcp_port, heartbeat_ms"


@pytest.mark.parametrize("kind", ["vm", "vcluster", "agent"])
def test_the_examples_are_bodies_that_are_right(described: dict[str, Any], kind: str) -> None:
    content = described["paths"][f"/api/v1/{kind}s"]["post"]["requestBody"]["content"]["application/json"]
    assert content["examples"]
    for example in content["examples"].values():
        TypeAdapter(flow_of(f"{kind}_create").body).validate_json(json.dumps(example["value"]))


def test_the_page_that_shows_it_needs_nobody_else(http: httpx.Client) -> None:
    page = http.get("/docs")
    assert page.status_code == 200
    assert "//" not in page.text.replace("<!--", "").split("<script>")[0].replace("<!DOCTYPE", ""), page.text
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f"/api/v1/docs/{name}" in page.text
        assert len(http.get(f"/docs/{name}").content) > 100_000
