"""What goes out to devices, as plain data: the manifest of a bundle and the assignment of a bundle to a device.

The field names and types are those of ``proto/skerry_proto/v1/release.proto``; ``wire`` turns one into the other.
"""

from dataclasses import dataclass

from skerry_shared.errors import UnfitError

MODES = ("", "serve", "shadow", "measure", "drop")  # the empty one, of an older director, means "serve"
ANY = -1  # a free dimension of a tensor: the batch


@dataclass(frozen=True)
class TensorSpec:
    """Name, numpy dtype and shape of a tensor; a dimension of ``ANY`` is free."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, order=True)
class Kind:
    """What a model is made for: devices that differ in none of these share a variant."""

    runtime: str
    precision: str
    arch: str

    @property
    def name(self) -> str:
        """As in ``onnxruntime-int8-x86_64``."""
        return f"{self.runtime}-{self.precision}-{self.arch}"


@dataclass(frozen=True)
class Target:
    """What a device must be for a bundle to be installed on it."""

    profile: str
    arch: str  # as `uname -m` says
    runtime: str
    precision: str
    memory_bytes: int = 0

    @property
    def kind(self) -> Kind:
        """What kind of device that is."""
        return Kind(self.runtime, self.precision, self.arch)

    def check(self, arch: str, runtimes: tuple[str, ...], memory_bytes: int) -> None:
        """Raises UnfitError, naming what does not fit, unless a device of these properties can run the bundle."""
        if self.arch != arch:
            raise UnfitError(f"bundle is for {self.arch}, this device is {arch}")
        if self.runtime not in runtimes:
            raise UnfitError(f"bundle needs runtime {self.runtime!r}, this device has {', '.join(runtimes)}")
        if self.memory_bytes > memory_bytes:
            raise UnfitError(f"bundle needs {self.memory_bytes} bytes of memory, this device has {memory_bytes}")


@dataclass(frozen=True)
class Measured:
    """What the cloud measured before it signed: bytes, milliseconds (median, one thread), share of right answers."""

    model_bytes: int
    latency_ms: float
    accuracy: float
    parity: float


@dataclass(frozen=True)
class Lineage:
    """Where a model comes from. ``parent`` is the release that training started from, 0 for none."""

    dataset: int
    dataset_sha256: str
    run: int
    code: str
    parent: int = 0


@dataclass(frozen=True)
class Channel:
    """Reference distribution of one monitored value: bin i counts values in [edges[i-1], edges[i]).

    Behind these ``len(edges) + 1`` bins are one for values that repeat the one before, unless the reference does so
    itself, and one for NaN. With a ``lag`` what is counted is the value less ``lag`` times the one before.
    """

    name: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    lag: float = 0.0

    @property
    def repeats(self) -> bool:
        """Is there a bin of repeated values?"""
        return len(self.counts) == len(self.edges) + 3


@dataclass(frozen=True)
class Field:
    """What may be kept of one value of the input's last axis, or of the whole input; see ``privacy``."""

    name: str
    action: str  # one of privacy.ACTIONS
    value: float = 0.0  # mask: what stands in its place
    step: float = 0.0  # generalise: to the nearest multiple of it; 0: as fine as it is
    low: float | None = None  # generalise: what is below becomes this
    high: float | None = None  # … and what is above this


@dataclass(frozen=True)
class Manifest:
    """The head of a bundle. Class labels are in the order of the model's scores, ``fields`` in that of the input."""

    workload: str
    release: int
    owner: str
    labels: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    target: Target
    measured: Measured
    lineage: Lineage
    baseline: tuple[Channel, ...]
    tolerance: float
    model_file: str
    fields: tuple[Field, ...] = ()  # none: all of the input is kept


@dataclass(frozen=True)
class Assignment:
    """The director's word on which bundle of one workload one device runs. Times in Unix seconds.

    One that drops the workload names no bundle: release 0, no path, an empty target. One that has a candidate measured
    names a bundle of release 0, which never serves.
    """

    fleet: str
    device: str
    counter: int
    issued: int
    expires: int
    rollout: int
    workload: str
    release: int
    path: str
    sha256: str
    length: int
    target: Target
    mode: str = "serve"  # one of MODES

    @property
    def shadow(self) -> bool:
        """Is the bundle to answer beside what serves, and never in its place?"""
        return self.mode == "shadow"

    @property
    def measure(self) -> bool:
        """Is the bundle to be measured on the device, and then to go?"""
        return self.mode == "measure"

    @property
    def drop(self) -> bool:
        """Is the workload to be taken off the device?"""
        return self.mode == "drop"


@dataclass(frozen=True)
class Signed:
    """A serialised document and the Ed25519 signature of it; see ``signing``."""

    document: bytes
    signature: bytes
