"""Late labels, by whatever way they come: pairs of a prediction id and what it should have been."""

from collections.abc import Callable, Mapping, Sequence

from skerry_shared.errors import InputError

AT_ONCE = 4096
LONGEST = 1024  # characters of a prediction id or a label
PARAMETER = "label:"  # and a prediction id: the name of a request's parameter whose value is the label

Truths = Sequence[tuple[str, str]]
Learn = Callable[[Truths], None]


def checked(pairs: Sequence[object]) -> Truths:
    """The same. Raises InputError unless they are some, and all are pairs of short texts."""
    found = [(pair[0], pair[1]) for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2]
    texts = all(isinstance(text, str) and 0 < len(text) <= LONGEST for pair in found for text in pair)
    if not 0 < len(pairs) <= AT_ONCE or len(found) < len(pairs) or not texts:
        raise InputError(f"labels: need 1 to {AT_ONCE} of [prediction id, label], each of 1 to {LONGEST} characters")
    return found


def among(parameters: Mapping[str, object]) -> Truths:
    """Those that a request brings along. Raises InputError."""
    brought = [
        (name.removeprefix(PARAMETER), value) for name, value in parameters.items() if name.startswith(PARAMETER)
    ]
    return checked(brought) if brought else ()
