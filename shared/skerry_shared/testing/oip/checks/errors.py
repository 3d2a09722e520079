"""Requests that are wrong in one point each, in each of the four forms.

Every one must be refused. It should be refused as the caller's mistake, with the name of what is wrong in its text:
who reads it on a device has nothing else to go by.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from skerry_shared.testing.oip import clauses
from skerry_shared.testing.oip.checks._make import Checks
from skerry_shared.testing.oip.checks.answers import WIRES, usable
from skerry_shared.testing.oip.core import Broken, Check, Skipped, expect
from skerry_shared.testing.oip.session import NOBODY, Answer, Session
from skerry_shared.testing.oip.tensors import DATATYPES, Query, sample

MISSING, WRONG = ("NOT_FOUND", "404"), ("INVALID_ARGUMENT", "400")


@dataclass(frozen=True)
class Case:
    """``spoil`` makes the request wrong; ``named`` is what an error should name, "" for the first input."""

    id: str
    title: str
    spoil: Callable[[Session, Query], Query]
    codes: tuple[str, ...] = WRONG
    named: str = ""


def _other_datatype(_: Session, query: Query) -> Query:
    datatype = "FP64" if query.inputs[0].datatype == "INT64" else "INT64"
    first = query.inputs[0]
    zeros = np.zeros(first.values.size, DATATYPES[datatype][0])
    return query.with_first(datatype=datatype, values=zeros)


def _other_size(s: Session, query: Query) -> Query:
    fixed = [i for i, size in enumerate(s.model.inputs[0].shape) if size > 0]
    if not fixed:
        raise Skipped("the first input has no dimension that is fixed")
    shape = list(query.inputs[0].shape)
    shape[fixed[-1]] += 1
    return _as_shape(s, query, tuple(shape))


def _other_rank(s: Session, query: Query) -> Query:
    return _as_shape(s, query, (*query.inputs[0].shape, 1, 1))


def _as_shape(s: Session, query: Query, shape: tuple[int, ...]) -> Query:
    spec = replace(s.model.inputs[0], shape=tuple(max(size, 1) for size in shape))
    return replace(query, inputs=(sample(spec, shape), *query.inputs[1:]))


def _negative(_: Session, query: Query) -> Query:
    if not query.inputs[0].shape:
        raise Skipped("the first input is a scalar")
    return query.with_first(shape=(-1, *query.inputs[0].shape[1:]))


def _fewer(_: Session, query: Query) -> Query:
    return query.with_first(values=query.inputs[0].values[:-1])


def _more(_: Session, query: Query) -> Query:
    values = query.inputs[0].values
    return query.with_first(values=np.concatenate([values, values[:1]]))


CASES = (
    Case("model", "an unknown model", lambda _, q: replace(q, model=NOBODY), MISSING, NOBODY),
    Case("version", "an unknown version", lambda _, q: replace(q, version=NOBODY), MISSING, NOBODY),
    Case("no-inputs", "no inputs", lambda _, q: replace(q, inputs=())),
    Case("unknown-input", "an input of an unknown name", lambda _, q: q.with_first(name=NOBODY), WRONG, NOBODY),
    Case("extra-input", "one input too many",
         lambda _, q: replace(q, inputs=(*q.inputs, replace(q.inputs[0], name=NOBODY))), WRONG, NOBODY),
    Case("twice", "an input twice", lambda _, q: replace(q, inputs=(*q.inputs, q.inputs[0]))),
    Case("datatype", "an input of another datatype", _other_datatype),
    Case("unknown-datatype", "an input of a datatype that does not exist", lambda _, q: q.with_first(datatype="FP7")),
    Case("rank", "an input with more dimensions", _other_rank),
    Case("shape", "an input with another size in a fixed dimension", _other_size),
    Case("negative", "an input with a negative dimension", _negative),
    Case("fewer", "fewer values than the shape says", _fewer),
    Case("more", "more values than the shape says", _more),
    Case("output", "an unknown output", lambda _, q: replace(q, outputs=(NOBODY,)), WRONG, NOBODY),
)  # fmt: skip


def asked(case: Case, wire: str, s: Session) -> Answer:
    """The answer to the wrong request, asked for once. Raises Skipped or Broken."""
    usable(s, wire)
    if not s.model.inputs:
        raise Skipped("the model has no inputs")
    found = s.remember((case.id, wire), lambda: _caught(case, wire, s))
    if isinstance(found, Exception):
        raise found
    return found  # type: ignore[no-any-return]


def _caught(case: Case, wire: str, s: Session) -> Answer | Exception:
    try:
        return s.infer(wire, case.spoil(s, s.query()))
    except (Broken, Skipped) as end:
        return end


def refused(case: Case, wire: str, s: Session) -> str:
    answer = asked(case, wire, s)
    lost = answer.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")  # it crashed, or hangs
    return expect(not answer.ok and not lost and not answer.problem, answer.problem or str(answer))


def clear(case: Case, wire: str, s: Session) -> str:
    answer = asked(case, wire, s)
    name = case.named or s.model.inputs[0].name
    seen = f"{answer}; expected {' or '.join(case.codes)} and the name {name!r}"
    return expect(answer.code in case.codes and name in answer.error, seen)


def alive(wire: str, s: Session) -> str:
    usable(s, wire)
    answer = s.infer(wire, s.query())
    return expect(answer.ok, str(answer))


def _checks(wire: str) -> list[Check]:
    clause = clauses.GRPC_ERRORS if wire.startswith("grpc") else clauses.REST_ERRORS
    checks = Checks(f"errors.{wire}")
    for case in CASES:
        checks.must(case.id, f"{case.title} is refused", clause)(partial(refused, case, wire))
        checks.should(f"{case.id}.clear", "… as the caller's mistake, and named", clause)(partial(clear, case, wire))
    checks.must("alive", "after all of these it still answers", clause)(partial(alive, wire))
    return checks


CHECKS = tuple(check for wire in WIRES for check in _checks(wire))
