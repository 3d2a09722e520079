"""The whole error tree, split by who must act.

SkerryError
├── UsageError          the caller: an argument, a configuration, a request that cannot be right
│   ├── ConfigError         a key or value of a TOML or JSON document
│   └── NotFoundError       a name or number that does not exist
├── StateError          the caller: the thing exists, but not in a state that allows this
├── TrustError          the supplier: something that cannot be verified, so it is not used
│   ├── SignatureError      not signed by the key that we trust
│   ├── ExpiredError        was valid once
│   ├── ReplayError         older than what was already seen
│   └── DigestError         content does not match what was signed
├── UnfitError          the operator: verified, but not for this device
├── ModelError          the model's owner: cannot be loaded, or does not answer as it must
├── InputError          the application: wrong tensor name, dtype or shape
├── LinkError           nobody, wait: the other side cannot be reached now
├── OverloadError       the caller: ask less, or again later; the request was not begun
├── DeadlineError       the caller: its own deadline passed before there was an answer
└── GateError           the model's owner: a candidate did not pass
"""


class SkerryError(Exception):
    """Base of all errors that Skerry raises on purpose. Its text says what is wrong and what to do."""


class UsageError(SkerryError):
    """The caller asked for something that cannot be right."""


class ConfigError(UsageError):
    """A configuration or request document has an unknown key, a missing key or a wrong value."""


class NotFoundError(UsageError):
    """No thing of this name or number."""


class StateError(SkerryError):
    """Not allowed in the present state. Nothing was changed."""


class TrustError(SkerryError):
    """Could not be verified, therefore not used."""


class SignatureError(TrustError):
    """Not signed by a trusted key."""


class ExpiredError(TrustError):
    """Valid once, but not now."""


class ReplayError(TrustError):
    """Older than, or the same as, something already seen."""


class DigestError(TrustError):
    """The content is not what was signed."""


class UnfitError(SkerryError):
    """Verified, but made for another kind of device."""


class ModelError(SkerryError):
    """The model cannot be loaded, or its answers are wrong."""


class InputError(SkerryError):
    """A tensor of a request has the wrong name, dtype, shape or size."""


class LinkError(SkerryError):
    """The other side cannot be reached now; trying again later is right."""


class OverloadError(SkerryError):
    """Too much waits already; the request was refused at once and may be sent again later."""


class DeadlineError(SkerryError):
    """The request's deadline passed before it was answered."""


class GateError(SkerryError):
    """A candidate did not pass a gate that it must pass."""
