"""The agent's configuration, DIR/agent.toml, and where everything else lies below DIR.

Enrolment writes agent.toml last, so a folder that has one is a whole device.
"""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from skerry_shared.config import load_toml
from skerry_shared.errors import ConfigError

SOCKET_PATH_MAX = 107  # bytes; sun_path of a Unix socket, less its final NUL


@dataclass(frozen=True)
class Health:
    """When a new model counts as healthy: the table [health]."""

    proving_answers: int = 50  # live answers that are compared with the predecessor's
    min_agreement: float = 0.3  # share of them that must have the same top class; real drift disagrees too
    max_loss: float = 0.1  # share of labelled answers by which it may be right less often than its predecessor
    labels_s: float = 60.0  # that labels get, where they come, to say who is right when there is too little agreement
    proving_s: float = 900.0  # with fewer answers by then the golden inputs alone decide; well within a wave's hour

    def __post_init__(self) -> None:
        """Raises ValueError, which ``decode`` turns into a ConfigError."""
        if self.proving_answers < 1 or min(self.proving_s, self.labels_s) < 0:
            raise ValueError("needs proving_answers >= 1, proving_s >= 0 and labels_s >= 0")
        if not (0 <= self.min_agreement <= 1 and 0 <= self.max_loss <= 1):
            raise ValueError("needs min_agreement and max_loss from 0 to 1")


@dataclass(frozen=True)
class Listen:
    """Where the inference servers listen: the table [listen]. Off this machine only with certificates on both sides."""

    address: str = "127.0.0.1"  # an IP address; 0.0.0.0 is every one of this machine's
    mtls: bool = False  # show the device's certificate, let in only whom the fleet's authority certified

    def __post_init__(self) -> None:
        """Raises ValueError, which ``decode`` turns into a ConfigError."""
        try:
            loopback = ipaddress.ip_address(self.address).is_loopback
        except ValueError:
            raise ValueError(f"address: {self.address!r} is not an IP address") from None
        if not loopback and not self.mtls:
            raise ValueError(f"address: {self.address} is not this machine's own loopback; that needs mtls = true")


@dataclass(frozen=True)
class Shadow:
    """How long a candidate answers beside the champion: the table [shadow]. It sees what ``sample_rate`` samples."""

    answers: int = 200  # that are compared, then it reports
    seconds: float = 86400.0  # in which there must have been so many, else it is refused

    def __post_init__(self) -> None:
        """Raises ValueError, which ``decode`` turns into a ConfigError."""
        if self.answers < 1 or self.seconds <= 0:
            raise ValueError("needs answers >= 1 and seconds > 0")


@dataclass(frozen=True)
class Protect:
    """When a model that serves gives way to its predecessor: the table [protect]."""

    min_answers: int = 20  # below it nothing is judged
    max_error_share: float = 0.5  # of the last 100 answers
    slo_ms: float = 0.0  # that an answer may take; 0: any time
    slo_quantile: float = 0.99  # of the last 100 answers must keep to it
    max_shift: float = 0.9  # share of the answers that may move to other classes; real drift moves some as well
    patience: int = 3  # looks, one a second, that must find the same kind of fault in a row
    golden_s: float = 3600.0  # between two checks with golden inputs
    stable_s: float = 60.0  # after which the agent's start was none in a row of crashes
    memory_mb: int = 0  # that the agent may take; 0: any

    def __post_init__(self) -> None:
        """Raises ValueError, which ``decode`` turns into a ConfigError."""
        if not 1 <= self.min_answers <= 100 or self.patience < 1 or self.memory_mb < 0:
            raise ValueError("needs min_answers from 1 to 100, patience >= 1, memory_mb >= 0")
        if not all(0 <= share <= 1 for share in (self.max_error_share, self.slo_quantile, self.max_shift)):
            raise ValueError("needs max_error_share, slo_quantile and max_shift from 0 to 1")
        if self.slo_ms < 0 or self.golden_s < 1 or self.stable_s < 1:
            raise ValueError("needs slo_ms >= 0, golden_s >= 1, stable_s >= 1")


@dataclass(frozen=True)
class AgentConfig:
    """DIR/agent.toml."""

    fleet: str
    device: str
    profile: str
    repository: str  # URL; {repository}/metadata/ and {repository}/targets/ are below it
    gateway: str  # "host:port" of the cloud's gRPC gateway
    cloud: str = ""  # URL of the cloud, which renews the certificate; without it nobody does
    mqtt: str = ""  # "host:port" of the broker, if there is one
    transports: tuple[Literal["mqtt", "grpc"], ...] = ("grpc",)  # in order of preference
    grpc_port: int = 0  # of the inference service over gRPC; 0 = any free one, see Folders.port
    http_port: int = 0  # of the same over REST; 0 = any free one, see Folders.http_port
    listen: Listen = Listen()
    window_s: float = 60.0  # seconds of traffic that one row of counts covers
    # share of all answers that are sampled, 0 to 1, up to some 50 a second; of uncertain and rare ones up to 8 times it
    sample_rate: float = 0.05
    sample_mb_day: float = 2.0  # megabytes of samples a day that go home, of each model; beyond it the share falls
    sample_lossy: bool = False  # send inputs that are floats in 16 bits, where these hold them to a part in 2048
    threads: int = 1  # of the model; more than one spins, which pays only above ~1 ms of work
    providers: tuple[str, ...] = ()  # that models may run on, the fastest that is right is taken; none: the profile's
    model_mb: int = 1024  # memory that one model may take
    models_mb: int = 0  # … that all models together may take; 0: what the profile gives
    spool_mb: int = 128  # telemetry kept while offline: a month of one model, see tests/faults/test_offline.py
    drain_kbps: int = 1024  # kilobits a second of it that go home once there is a link
    health: Health = Health()
    protect: Protect = Protect()
    shadow: Shadow = Shadow()

    def __post_init__(self) -> None:
        """Raises ValueError, which ``decode`` turns into a ConfigError."""
        if not self.transports or ("mqtt" in self.transports and not self.mqtt):
            raise ValueError("transports: needs one at least, and 'mqtt' needs the key 'mqtt'")
        if not 0 <= self.sample_rate <= 1 or self.window_s <= 0 or self.threads < 1 or self.spool_mb < 1:
            raise ValueError("needs sample_rate from 0 to 1, window_s > 0, threads >= 1, spool_mb >= 1")
        if self.sample_mb_day <= 0:
            raise ValueError("sample_mb_day: needs a number above 0; for no samples at all set sample_rate = 0")
        if self.drain_kbps < 1:
            raise ValueError("drain_kbps: needs 1 or more")
        if len(set(self.providers)) < len(self.providers) or self.model_mb < 1 or self.models_mb < 0:
            raise ValueError("needs providers each once, model_mb >= 1, models_mb >= 0")
        if not all(0 <= port <= 65535 for port in (self.grpc_port, self.http_port)):
            raise ValueError("grpc_port, http_port: need 0 to 65535")
        for key, address in (("gateway", self.gateway), ("mqtt", self.mqtt or "unused:0")):
            if not re.fullmatch(r".+:\d{1,5}", address):
                raise ValueError(f"{key}: {address!r} is not host:port")


@dataclass(frozen=True)
class WorkloadFolder:
    """What one workload has on this device, DIR/workloads/NAME: the slots a/ and b/, the pointer, and this."""

    root: Path

    @property
    def name(self) -> str:
        """Of the workload."""
        return self.root.name

    @property
    def update(self) -> Path:
        """The workload's last assignment and how far it came."""
        return self.root / "update"

    @property
    def engines(self) -> Path:
        """What was measured and built for its models on this device; may be removed at any time."""
        return self.root / "engines"


@dataclass(frozen=True)
class Folders:
    """Every path below a device's folder."""

    root: Path

    @property
    def config(self) -> Path:
        """The configuration; its presence means that the device is enrolled."""
        return self.root / "agent.toml"

    @property
    def identity(self) -> Path:
        """What enrolment brought: the device's key and whom it trusts."""
        return self.root / "identity"

    @property
    def authority(self) -> Path:
        """The fleet's certificate authority, PEM."""
        return self.identity / "authority.pem"

    @property
    def certificate(self) -> Path:
        """The device's certificate, PEM."""
        return self.identity / "device.pem"

    @property
    def key(self) -> Path:
        """The device's private key, PEM, mode 0600."""
        return self.identity / "device.key"

    @property
    def pseudonyms(self) -> Path:
        """The secret key of pseudonyms, raw bytes, mode 0600: the agent's own, or one that devices share."""
        return self.identity / "pseudonyms.key"

    @property
    def director(self) -> Path:
        """The director's Ed25519 public key, PEM."""
        return self.identity / "director.pem"

    @property
    def ingest(self) -> Path:
        """The fleet's public ingest key, raw bytes."""
        return self.identity / "ingest.pub"

    @property
    def trust_root(self) -> Path:
        """The TUF root that came with enrolment."""
        return self.identity / "root.json"

    @property
    def tuf(self) -> Path:
        """Verified TUF metadata."""
        return self.root / "tuf"

    def workload(self, name: str) -> WorkloadFolder:
        """Where this workload lies, or would."""
        return WorkloadFolder(self.root / "workloads" / name)

    def workloads(self) -> list[WorkloadFolder]:
        """Those that were ever assigned to this device, by name."""
        return [self.workload(path.name) for path in sorted((self.root / "workloads").glob("*"))]

    @property
    def bench(self) -> Path:
        """The newest benchmark job, and for a while its candidate."""
        return self.root / "bench"

    @property
    def events(self) -> Path:
        """The last events, for `skerry-agent status`."""
        return self.root / "events"

    @property
    def losses(self) -> Path:
        """Counts of telemetry that could not be kept."""
        return self.root / "losses"

    @property
    def spool(self) -> Path:
        """Sealed telemetry that the cloud has not acknowledged."""
        return self.root / "spool"

    @property
    def run(self) -> Path:
        """Of the running agent only: socket, port, lock. Mode 0700."""
        return self.root / "run"

    @property
    def port(self) -> Path:
        """The port of the inference service over gRPC, as text."""
        return self.run / "oip.port"

    @property
    def http_port(self) -> Path:
        """The port of the inference service over REST, as text."""
        return self.run / "oip.http.port"

    @property
    def lock(self) -> Path:
        """Locked while an agent runs."""
        return self.run / "agent.lock"

    @property
    def socket(self) -> Path:
        """The Unix socket for applications. Raises ConfigError if its path is too long for one."""
        path = self.run.absolute() / "agent.sock"
        if len(bytes(path)) > SOCKET_PATH_MAX:
            raise ConfigError(f"{path}: longer than the {SOCKET_PATH_MAX} bytes of a socket's path; move the folder")
        return path

    @property
    def frames(self) -> Path:
        """The Unix socket for predictions by frames; see docs/wire.md. Its path is as long as that of ``socket``."""
        return self.socket.with_name("infer.sock")


def load(folders: Folders) -> AgentConfig:
    """The folder's configuration. Raises ConfigError, also if the device is not enrolled."""
    if not folders.config.exists():
        raise ConfigError(f"{folders.root}: not enrolled; run `skerry-agent enroll` first")
    return load_toml(AgentConfig, folders.config)
