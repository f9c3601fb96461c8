"""What an operation may answer instead of what was asked for, and what is told of it in the description."""

import inspect
from collections.abc import Callable
from typing import Any

from gpve.server.http.shapes import ProblemDetails

PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"description": text, "content": {"application/problem+json": {}}, "model": ProblemDetails}
    for code, text in {
        400: "The request cannot be read.",
        401: "No valid token.",
        403: "The project would have more than it may.",
        404: "There is no such thing.",
        405: "The method is not allowed here; `Allow` says which are.",
        409: "Its state does not allow it, or the idempotency key belongs to another request.",
        410: "The revision is not kept any more.",
        412: "It has changed since (If-Match).",
        413: "The request is too large.",
        415: "The media type is not application/json.",
        422: "A field is wrong.",
        429: "Too many requests at once.",
        503: "The database or the node does not answer.",
    }.items()
}
"""By status. 405 is answered where there is no operation."""

WITH_BODY = (400, 413, 415)
"""What only who sends a body is answered."""
A_TASK = (409, 429)
"""What only who asks for a task is answered."""


def answers(*problems: int) -> dict[int | str, dict[str, Any]]:
    """These problems, and those that any operation with a token may answer."""
    return {code: PROBLEMS[code] for code in sorted({*problems, 401, 422, 503})}


def told(endpoint: Callable[..., Any]) -> dict[str, Any]:
    """The summary and the description of an operation: the first sentence of its docstring, and all of it."""
    text = inspect.cleandoc(endpoint.__doc__ or "")
    summary = text.partition(". ")[0].partition(": ")[0].rstrip(".")
    return {"summary": summary, "description": text}
