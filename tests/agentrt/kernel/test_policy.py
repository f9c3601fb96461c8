"""Policies from Python: errors, checks, explanations, narrowing, speed."""

import json
import timeit
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("version = 1\n[limits]\nmemorry = 1", ["line 3", 'unknown key "memorry"', "did you mean memory?"]),
        ("version = 3", ["line 1", "write version = 1"]),
        ("version = 1\n[root]\nimage = 'x'", ["line 3", "sha256"]),
    ],
)
def test_errors_say_what_and_where(kernel, text, parts):
    with pytest.raises(ValueError, match="policy") as caught:
        kernel.Policy(text)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_checks_and_explanations_agree(kernel):
    policy = kernel.Policy('version = 1\n[files]\nread = ["/etc/hosts"]\n[network]\negress = ["*.example.org:443"]')
    for verb, thing in [
        ("read", "/etc/hosts"),
        ("read", "/usr/bin/env"),
        ("write", "/usr/bin/env"),
        ("write", "/workspace/x"),
        ("read", "/workspace/../root/x"),
        ("read", "/usr//bin/./env"),
        ("execute", "/tmp/x"),
        ("connect", "a.example.org:443"),
        ("connect", "example.org:443"),
        ("connect", "aexample.org:443"),
        ("bind", "80"),
        ("call", "ptrace"),
        ("capability", "chown"),
    ]:
        told = kernel.explain(policy, verb, thing)
        assert policy.allows(verb, thing) is told.allowed, told
        assert told.why
    assert kernel.explain(policy, "read", "/root/x").to_allow == 'files.read = ["/root/x"]'
    with pytest.raises(ValueError, match="is no access"):
        policy.allows("eat", "/x")


def test_what_is_advised_helps(kernel):
    """Writing what an explanation advises allows the access."""
    for verb, thing in [("read", "/srv/x"), ("write", "/srv/x"), ("call", "ptrace"), ("capability", "chown")]:
        advice = kernel.explain(kernel.Policy("version = 1"), verb, thing).to_allow
        table, _, rest = advice.partition(".")
        assert kernel.Policy(f"version = 1\n[{table}]\n{rest}").allows(verb, thing), advice


def test_narrowing(kernel):
    wide = kernel.Policy('version = 1\n[files]\nread = ["/srv"]\n[limits]\nmemory = "1GiB"')
    narrow = wide.narrowed_by(
        kernel.Policy('version = 1\n[files]\nread = ["/srv/a", "/opt"]\n[limits]\nmemory = "2GiB"')
    )
    assert narrow.allows("read", "/srv/a/x")
    assert not narrow.allows("read", "/srv/b")
    assert not narrow.allows("read", "/opt/x")
    assert json.loads(narrow.to_json())["limits"]["memory"] == 1 << 30
    with pytest.raises(ValueError, match="does not narrow"):
        wide.narrowed_by(kernel.Policy('version = 1\n[root]\ndirectory = "/srv"'))


def test_a_document_is_the_same_after_a_round(kernel):
    policy = kernel.Policy('version = 1\nlevel = "L2"\n[limits]\ncpus = 0.5\n[files]\nwrite = ["/srv"]')
    assert kernel.Policy(policy.to_toml()) == policy == kernel.Policy.from_json(policy.to_json())


def test_the_committed_schema_is_that_of_the_package(kernel):
    assert json.loads((REPOSITORY / "docs/reference/policy.schema.json").read_text()) == kernel.schema()


def test_every_key_is_in_the_reference(kernel):
    reference = (REPOSITORY / "docs/reference/policy.md").read_text()
    schema = kernel.schema()
    for table, definition in schema["properties"].items():
        assert f"`{table}" in reference or f"[{table}]" in reference, table
        kinds = [definition, *definition.get("anyOf", [])]
        for kind in kinds:
            name = kind.get("$ref", "").rsplit("/", 1)[-1]
            for key in schema["$defs"].get(name, {}).get("properties", {}):
                assert f"`{key}`" in reference, f"{table}.{key}"


def test_a_check_takes_less_than_two_microseconds(kernel):
    allows = kernel.Policy("version = 1").allows
    once = min(timeit.repeat(lambda: allows("read", "/usr/bin/env"), number=20_000, repeat=5)) / 20_000
    assert once < 2e-6, f"{once * 1e6:.2f} microseconds"
