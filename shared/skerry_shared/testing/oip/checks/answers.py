"""What the model answers, asked in each of the four forms: gRPC raw and typed, REST JSON and binary."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from math import prod

import numpy as np

from skerry_shared.testing.oip import clauses
from skerry_shared.testing.oip.checks._make import Checks
from skerry_shared.testing.oip.core import Broken, Check, Skipped, expect
from skerry_shared.testing.oip.session import Answer, Session
from skerry_shared.testing.oip.tensors import Array, Query

WIRES = {
    "grpc-raw": (clauses.GRPC_INFER, clauses.GRPC_RAW),
    "grpc-typed": (clauses.GRPC_INFER, clauses.GRPC_TYPED),
    "rest-json": (clauses.REST_RESPONSE, clauses.REST_REQUEST),
    "rest-binary": (clauses.REST_RESPONSE, clauses.BINARY),
}
CALLS = 16  # at once
BATCH = 3
TOLERANCE = 1e-3  # relative and absolute; a batch may be computed in another order


def usable(s: Session, wire: str) -> None:
    """Raises Skipped if the form cannot carry the model's tensors, or an extension is missing."""
    if wire == "rest-binary" and s.target.http:
        s.need("binary_tensor_data")
    if wire in ("grpc-typed", "rest-json") and any(t.datatype == "FP16" for t in s.model.inputs):
        raise Skipped("FP16 travels raw only")


def answered(s: Session, wire: str, query: Query) -> Answer:
    """A success in the right form. Raises Broken or Skipped."""
    usable(s, wire)
    answer = s.infer(wire, query)
    if not answer.ok or answer.problem:
        raise Broken(answer.problem or str(answer))
    return answer


def plain(s: Session, wire: str) -> Answer:
    """The answer to the plainest request, asked for once."""
    found = s.remember(("plain", wire), lambda: _caught(s, wire))
    if isinstance(found, Exception):
        raise found
    return found  # type: ignore[no-any-return]


def _caught(s: Session, wire: str) -> Answer | Exception:
    try:
        return answered(s, wire, s.query())
    except (Broken, Skipped) as end:
        return end


def ok(wire: str, s: Session) -> str:
    return str(plain(s, wire))


def names(wire: str, s: Session) -> str:
    found, wanted = sorted(plain(s, wire).outputs), sorted(spec.name for spec in s.model.outputs)
    return expect(found == wanted, f"{', '.join(found)}; metadata: {', '.join(wanted)}")


def datatypes(wire: str, s: Session) -> str:
    found = plain(s, wire).outputs
    wrong = [spec.name for spec in s.model.outputs if found[spec.name].datatype != spec.datatype]
    return expect(not wrong, f"differs from the metadata: {', '.join(wrong) or 'none'}")


def shapes(wire: str, s: Session) -> str:
    found = plain(s, wire).outputs
    seen = ", ".join(f"{spec.name} {list(found[spec.name].shape)}" for spec in s.model.outputs)
    return expect(all(spec.fits(found[spec.name].shape) for spec in s.model.outputs), seen)


def sizes(wire: str, s: Session) -> str:
    found = plain(s, wire).outputs
    seen = ", ".join(f"{name} {list(o.shape)}: {len(o.values)} values" for name, o in found.items())
    return expect(all(prod(o.shape) == len(o.values) for o in found.values()), seen)


def request_id(wire: str, s: Session) -> str:
    answer = answered(s, wire, s.query(id="oip-check 1 ä"))
    return expect(answer.id == "oip-check 1 ä", f"id: {answer.id!r}")


def model_name(wire: str, s: Session) -> str:
    return expect(plain(s, wire).model == s.model.name, f"model_name: {plain(s, wire).model!r}")


def model_version(wire: str, s: Session) -> str:
    if not s.model.versions:
        raise Skipped("the model tells no versions")
    version = plain(s, wire).version
    return expect(version in s.model.versions, f"model_version: {version!r}; metadata: {list(s.model.versions)}")


def by_version(wire: str, s: Session) -> str:
    if not s.model.versions:
        raise Skipped("the model tells no versions")
    version = s.model.versions[-1]
    answer = answered(s, wire, s.query(version=version))
    return expect(answer.version in ("", version), f"asked for {version!r}, answered by {answer.version!r}")


def subset(wire: str, s: Session) -> str:
    wanted = s.model.outputs[-1].name
    found = list(answered(s, wire, s.query(outputs=(wanted,))).outputs)
    return expect(found == [wanted], f"asked for {wanted}, got {', '.join(found)}")


def every_output(wire: str, s: Session) -> str:
    wanted = tuple(spec.name for spec in reversed(s.model.outputs))
    found = tuple(answered(s, wire, s.query(outputs=wanted)).outputs)
    return expect(sorted(found) == sorted(wanted), f"asked for {', '.join(wanted)}, got {', '.join(found)}")


def batch(wire: str, s: Session) -> str:
    _need_batch(s)
    found = answered(s, wire, s.query(BATCH)).outputs
    batched = [spec.name for spec in s.model.outputs if spec.shape[:1] == (-1,)]
    seen = ", ".join(f"{name} {list(found[name].shape)}" for name in batched)
    return expect(all(found[name].shape[0] == BATCH for name in batched), f"{BATCH} examples: {seen}")


def batch_alone(wire: str, s: Session) -> str:
    _need_batch(s)
    query = s.query(BATCH)
    alone = replace(query, inputs=tuple(
        replace(t, shape=(1, *t.shape[1:]), values=t.values[: prod(t.shape[1:])]) for t in query.inputs
    ))  # fmt: skip
    together, single = answered(s, wire, query).outputs, answered(s, wire, alone).outputs
    for name, output in single.items():
        _same(name, together[name].values[: len(output.values)], output.values)
    return "the first of the batch is as it is alone"


def again(wire: str, s: Session) -> str:
    first, second = plain(s, wire).outputs, answered(s, wire, s.query()).outputs
    for name, output in first.items():
        _same(name, second[name].values, output.values)
    return "the same"


def parameters(wire: str, s: Session) -> str:
    return str(answered(s, wire, s.query(parameters={"oip_check_unknown": "ignored"})))


def timeout(wire: str, s: Session) -> str:
    return str(answered(s, wire, s.query(parameters={"timeout": 10_000_000})))


def at_once(wire: str, s: Session) -> str:
    usable(s, wire)
    if wire.startswith("rest"):
        sessions = [Session(s.target) for _ in range(CALLS)]  # a connection each
        for session in sessions:
            session.model = s.model
    else:
        sessions = [s] * CALLS
    try:
        with ThreadPoolExecutor(CALLS) as threads:
            found = list(threads.map(lambda i: sessions[i].infer(wire, s.query(id=str(i))), range(CALLS)))
    finally:
        for session in {id(x): x for x in sessions if x is not s}.values():
            session.close()
    wrong = [str(answer) for i, answer in enumerate(found) if not answer.ok or answer.id != str(i)]
    return expect(not wrong, wrong[0] if wrong else f"{CALLS} calls, each with its own id")


def agrees(wire: str, s: Session) -> str:
    if wire == "grpc-raw":
        raise Skipped("the others are compared with this one")
    first = plain(s, "grpc-raw" if s.target.grpc else "rest-json").outputs
    for name, output in plain(s, wire).outputs.items():
        _same(name, output.values, first[name].values)
    return "the same as in the first form"


def _need_batch(s: Session) -> None:
    if not s.model.inputs or any(spec.shape[:1] != (-1,) for spec in s.model.inputs):
        raise Skipped("the first dimension of the inputs is not free")


def _same(name: str, one: Array, other: Array) -> None:
    if len(one) != len(other):
        raise Broken(f"output {name!r}: {len(one)} values and {len(other)} values")
    if one.dtype.kind not in "biuf" or other.dtype.kind not in "biuf":
        holds = [_text(a) for a in one] == [_text(b) for b in other]
    else:
        holds = np.allclose(one.astype(float), other.astype(float), TOLERANCE, TOLERANCE, equal_nan=True)
    expect(holds, f"output {name!r}: {one[:4]} and {other[:4]}")


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _checks(wire: str) -> list[Check]:
    response, form = WIRES[wire]
    checks = Checks(f"infer.{wire}")
    for name, title, clause, run in (
        ("ok", "a request that fits the metadata is answered, in the same form", form, ok),
        ("outputs", "all outputs of the metadata come where none is asked for", response, names),
        ("datatypes", "their datatypes are the metadata's", response, datatypes),
        ("shapes", "their shapes fit the metadata's", response, shapes),
        ("sizes", "their contents have as many values as their shapes say", form, sizes),
        ("id", "the request's id comes back", response, request_id),
        ("model-name", "the model's name comes back", response, model_name),
        ("by-version", "the version that is asked for answers", response, by_version),
        ("subset", "only the output that is asked for comes", response, subset),
        ("every-output", "all outputs that are asked for come", response, every_output),
        ("batch", "a batch is answered as a batch, where the first dimension is free", form, batch),
        ("parameters", "a parameter that it does not know does no harm", response, parameters),
        ("timeout", "a generous timeout does no harm", clauses.SCHEDULE, timeout),
        ("at-once", "calls at the same time do not mix", response, at_once),
        ("agrees", "the answer does not depend on the form", form, agrees),
    ):
        checks.must(name, title, clause)(partial(run, wire))
    for name, title, clause, run in (
        ("model-version", "the version that answered is told, and is one of the metadata's", response, model_version),
        ("batch-alone", "an example of a batch is answered as it is alone", response, batch_alone),
        ("again", "the same request gets the same answer", response, again),
    ):
        checks.should(name, title, clause)(partial(run, wire))
    return checks


CHECKS = tuple(check for wire in WIRES for check in _checks(wire))
