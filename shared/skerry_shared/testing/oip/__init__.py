"""A conformance suite for servers of the Open Inference Protocol v2, over gRPC and REST.

It knows nothing about the server but its addresses: what to ask comes from the model's metadata. Each check names the
clause that it stands on and has a level. MUST: the protocol says so, or a stock client fails without it; a server
that breaks one does not conform. SHOULD: the protocol leaves it open, and users are better off with it. A check that
cannot be made (no REST address, an extension that the server does not announce) is skipped with its reason.

    from skerry_shared.testing import oip

    report = oip.run(oip.Target(grpc="127.0.0.1:8001", http="127.0.0.1:8000", model="resnet"))
    assert report.conforms, report.broken

It sends a few hundred small requests, changes nothing, and needs grpcio. ``skerry oip-check`` prints the report.
"""

from skerry_shared.testing.oip.checks import CHECKS
from skerry_shared.testing.oip.core import Check, Level, Outcome, Report, Result
from skerry_shared.testing.oip.runner import run
from skerry_shared.testing.oip.session import Target

__all__ = ["CHECKS", "Check", "Level", "Outcome", "Report", "Result", "Target", "run"]
