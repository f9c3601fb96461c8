"""A binary heap of (key, guest) in two arrays: ends that waiting moved, and deadlines. Equal keys go by guest."""

from gpve.scheduler.compiled import kernel


@kernel
def push(keys, guests, size, key, guest):
    """Add an entry to a heap of ``size`` entries."""
    at = size
    while at > 0:
        up = (at - 1) // 2
        if keys[up] < key or (keys[up] == key and guests[up] < guest):
            break
        keys[at] = keys[up]
        guests[at] = guests[up]
        at = up
    keys[at] = key
    guests[at] = guest


@kernel
def pop(keys, guests, size):
    """Drop the first of ``size`` entries."""
    key = keys[size - 1]
    guest = guests[size - 1]
    size -= 1
    at = 0
    while True:
        down = 2 * at + 1
        if down >= size:
            break
        if down + 1 < size and (
            keys[down + 1] < keys[down] or (keys[down + 1] == keys[down] and guests[down + 1] < guests[down])
        ):
            down += 1
        if key < keys[down] or (key == keys[down] and guest < guests[down]):
            break
        keys[at] = keys[down]
        guests[at] = guests[down]
        at = down
    keys[at] = key
    guests[at] = guest
