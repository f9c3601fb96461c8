"""An agent's policy, checked against the schema that the Agent Runtime's own parser generates.

The runtime has the last word: it also knows its host. But most of what it would refuse is refused here, before there is
a task.
"""

import difflib
import json
import tomllib
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

NAMES = {"object": "a table", "array": "a list", "string": "text", "integer": "a whole number", "number": "a number"}
NAMES |= {"boolean": "true or false"}


@lru_cache(256)
def problem_of_policy(document: str) -> str:
    """What is wrong with a policy (TOML or JSON, empty: all defaults), in one sentence; empty: nothing."""
    form, read = ("JSON", json.loads) if document.lstrip().startswith("{") else ("TOML", tomllib.loads)
    try:
        told = read(document)
    except (ValueError, RecursionError) as error:
        return f"no {form}: {error}"
    from jsonschema.exceptions import best_match

    # What is left out is added on the node.
    worst = best_match(_validator().iter_errors({"version": 1, **told}))
    return "" if worst is None else _sentence(worst)


@cache
def _validator() -> Any:
    # Imported when the first policy comes: most servers never see one.
    from jsonschema import Draft202012Validator

    here = Path(__file__).resolve()
    packaged = here.with_name("policy.schema.json")
    schema = packaged if packaged.exists() else here.parents[2] / "docs" / "reference" / "policy.schema.json"
    return Draft202012Validator(json.loads(schema.read_text()))


def _sentence(error: Any) -> str:
    path = [str(part) for part in error.absolute_path]
    if error.validator == "additionalProperties":
        known = sorted(error.schema["properties"])
        unknown = next(key for key in error.instance if key not in known)
        near = difflib.get_close_matches(unknown, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        return f"{'.'.join([*path, unknown])}: no such key; {hint}"
    wanted = _wanted(error.validator, error.validator_value)
    if error.validator == "pattern":
        # What a pattern means stands in the schema, beside it or around it.
        schemas = [one.schema for one in (error, error.parent) if one is not None]
        wanted = next((one["description"] for one in schemas if "description" in one), wanted)
    return f"{'.'.join(path) or 'the policy'}: {wanted}"


def _wanted(validator: Any, value: Any) -> str:
    """What would be right, by a keyword of the schema and its value."""
    match validator:
        case "type":
            kinds = [value] if isinstance(value, str) else [kind for kind in value if kind != "null"]
            return f"{' or '.join(NAMES.get(kind, kind) for kind in kinds)} is wanted"
        case "const":
            return f"{value!r} is wanted"
        case "enum":
            return f"one of {', '.join(map(repr, value))} is wanted"
        case "oneOf" | "anyOf" if all("const" in one for one in value):
            return f"one of {', '.join(repr(one['const']) for one in value)} is wanted"
        case "pattern":
            return f"text that matches {value} is wanted"
        case "minimum":
            return f"{value} or more is wanted"
        case "maximum":
            return f"{value} or less is wanted"
        case "required":
            return f"{', '.join(value)} must be said"
    return f"it does not fit the schema ({validator}: {json.dumps(value)[:100]})"
