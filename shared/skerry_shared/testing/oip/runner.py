"""Runs the checks one after the other; nothing that a server does ends the run."""

from collections.abc import Callable

from skerry_shared.testing.oip.checks import CHECKS
from skerry_shared.testing.oip.core import Broken, Check, Outcome, Report, Result, Skipped
from skerry_shared.testing.oip.session import Session, Target

SEEN = 300  # characters of what was seen that a result keeps


def run(target: Target, progress: Callable[[Result], None] = lambda _: None) -> Report:
    """All checks against ``target``; ``progress`` hears each result.

    Raises UsageError, NotFoundError or LinkError if there is no such server or model.
    """
    session = Session(target)
    try:
        model = session.model.name  # without it nothing can be asked
        results = []
        for check in CHECKS:
            results.append(_result(check, session))
            progress(results[-1])
    finally:
        session.close()
    server = ", ".join(address for address in (target.grpc, target.http) if address)
    return Report(server, model, tuple(results))


def _result(check: Check, session: Session) -> Result:
    try:
        outcome, seen = Outcome.PASS, check.run(session)
    except Broken as broken:
        outcome, seen = Outcome.FAIL, str(broken)
    except Skipped as skipped:
        outcome, seen = Outcome.SKIP, str(skipped)
    except Exception as error:  # noqa: BLE001 - whatever the server sent to cause it, it is not what the protocol says
        outcome, seen = Outcome.FAIL, f"{type(error).__name__}: {error}"
    return Result(check, outcome, " ".join(seen.split())[:SEEN])
