"""Lists inside one value: ``a|b`` and ``key=value|key=value``, both ways."""

from collections.abc import Iterable


def items_of(text: str) -> tuple[str, ...]:
    """``a|b`` as its items. Raises `ValueError` for an empty one."""
    items = tuple(text.split("|"))
    if not all(items):
        raise ValueError(f"{text!r} has an empty item between its bars")
    return items


def labels_of(text: str) -> dict[str, str]:
    """``key=value|key=value`` as a mapping. Raises `ValueError`."""
    labels: dict[str, str] = {}
    for item in items_of(text):
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise ValueError(f"{item!r} is not key=value")
        if key in labels:
            raise ValueError(f"{text!r} names {key!r} twice")
        labels[key] = value
    return labels


def text_of(items: Iterable[str]) -> str:
    """Items in sorted order as ``a|b``. Raises `ValueError` for one that cannot be read back."""
    listed = sorted(items)
    for item in listed:
        if not item or "|" in item:
            raise ValueError(f"{item!r} cannot stand in a list: it is empty or has a bar")
    return "|".join(listed)


def text_of_labels(pairs: Iterable[tuple[str, str]]) -> str:
    """Pairs in sorted order as ``key=value|key=value``. Raises `ValueError` like `text_of`."""
    listed = list(pairs)
    for key, _ in listed:
        if not key or "=" in key:
            raise ValueError(f"{key!r} cannot be the key of a label: it is empty or has an equals sign")
    return text_of(f"{key}={value}" for key, value in listed)
