"""What is wrong with a field, in our own sentences instead of the library's."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from gpve.tasks.errors import BadBody

NAME = "lower-case letters, digits, dots and dashes are wanted, at most {}, and a letter or a digit first and last"
PATTERNS = {
    r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$": NAME.format(63),
    r"^[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?$": NAME.format(64),
    r"^v1\.[0-9]{1,3}\.[0-9]{1,3}$": "a version like v1.31.0 is wanted",
    r"^(/[^\x00]*)?$": "an absolute path is wanted, or nothing",
    r"^/[!-~]*$": "a path that begins with / is wanted, of printable ASCII characters without blanks",
    r"^[^\x00]*$": "text without the character NUL is wanted",
    r"^[^=\x00]+$": "a name without = and the character NUL is wanted",
    r"^[^\x00-\x1f\x7f]*$": "text without control characters is wanted",
    r"^[ -~]*$": "printable ASCII characters are wanted",
    r"^[ -~]+$": "printable ASCII characters are wanted",
    r"^[!-~]+$": "printable ASCII characters without blanks are wanted",
    r"^[0-9]{1,15}$": "a number is wanted",
    r"^[0-9a-f]{12,64}$": "12 to 64 hexadecimal digits are wanted",
    r"^[A-Za-z0-9+/]*={0,2}$": "base64 is wanted",
    r'^(\*|(W/)?"[0-9]{1,15}")$': 'a revision in quotes is wanted, as "57", or *',
}
"""What the patterns of fields mean."""
KINDS = {
    "missing": "it must be said",
    "extra_forbidden": "there is no such field",
    "string_type": "text is wanted",
    "int_type": "a whole number is wanted",
    "int_parsing": "a whole number is wanted",
    "int_from_float": "a whole number is wanted",
    "bool_type": "true or false is wanted",
    "bool_parsing": "true or false is wanted",
    "tuple_type": "a list is wanted",
    "list_type": "a list is wanted",
    "dict_type": "an object is wanted",
    "model_type": "an object is wanted",
    "model_attributes_type": "an object is wanted",
}


def sentence(error: Mapping[str, Any]) -> str:
    """One error of pydantic's, told to a person."""
    context = error.get("ctx", {})
    match error["type"]:
        case kind if kind in KINDS:
            return KINDS[kind]
        case "greater_than_equal":
            return f"{context['ge']} or more is wanted"
        case "less_than_equal":
            return f"{context['le']} or less is wanted"
        case "too_short":
            return f"{context['min_length']} or more are wanted"
        case "too_long":
            return f"at most {context['max_length']} are wanted"
        case "string_too_short":
            return f"{context['min_length']} or more characters are wanted"
        case "string_too_long":
            return f"at most {context['max_length']} characters are wanted"
        case "string_pattern_mismatch" if context["pattern"] in PATTERNS:
            return PATTERNS[context["pattern"]]
        case "literal_error" | "enum":
            return f"{context['expected']} is wanted"
        case "value_error":
            return str(context["error"])
    return str(error["msg"])


def bad_body(flow: str, error: ValidationError) -> BadBody:
    """The first thing that is wrong with a body."""
    first = error.errors()[0]
    return BadBody(flow, ".".join(map(str, first["loc"])) or "body", sentence(first))
