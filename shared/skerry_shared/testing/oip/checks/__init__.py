"""Every check, in the order in which they are made: what is alive, what is there, what it answers, what it refuses."""

from skerry_shared.testing.oip.checks import answers, errors, extensions, health, metadata, rest
from skerry_shared.testing.oip.core import Check

CHECKS: tuple[Check, ...] = (
    *health.CHECKS,
    *metadata.CHECKS,
    *answers.CHECKS,
    *errors.CHECKS,
    *rest.CHECKS,
    *extensions.CHECKS,
)
