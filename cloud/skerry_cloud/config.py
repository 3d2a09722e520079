"""``skerry-cloud.toml``: every choice of the cloud side, checked when read. Relative paths start at its folder."""

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from skerry_shared import plugins
from skerry_shared.config import load_toml
from skerry_shared.identity import check_name
from skerry_shared.telemetry import TABLES

FILE = "skerry-cloud.toml"
DATABASES = ("sqlite+aiosqlite:///", "postgresql+asyncpg://")
MAX_WORKERS = 64  # of 256 shards each then has four


@dataclass(frozen=True)
class Listen:
    """Addresses and ports. ``hosts`` go into the server's certificate; a device must reach it under one of them."""

    address: str = "127.0.0.1"
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1")
    https_port: int = 8443
    grpc_port: int = 8444
    mqtt_port: int = 8883
    mqtt: bool = True  # start Mosquitto as a child where it is installed

    def __post_init__(self) -> None:
        """Raises ValueError, which ``decode`` turns into a ConfigError."""
        ports = (self.https_port, self.grpc_port, self.mqtt_port)
        if not self.hosts:
            raise ValueError("hosts: name at least one; devices reach the cloud by it")
        if not all(0 < port < 65536 for port in ports) or len(set(ports)) < len(ports):
            raise ValueError("https_port, grpc_port, mqtt_port: need three different numbers from 1 to 65535")


@dataclass(frozen=True)
class Devices:
    """What devices get when they enrol."""

    certificate_days: int = 90
    token_hours: int = 24
    assignment_days: int = 30  # an assignment that reaches a device later than this is refused

    def __post_init__(self) -> None:
        """Raises ValueError, which ``decode`` turns into a ConfigError."""
        _positive(self)


@dataclass(frozen=True)
class Rollouts:
    """How a release spreads when the retraining policy starts it; `skerry rollout start` may say otherwise."""

    canary: int = 1  # devices in the first wave
    wave_minutes: float = 60.0  # a wave that is not healthy by then halts the rollout; longer than a device's proving

    def __post_init__(self) -> None:
        """Raises ValueError, which ``decode`` turns into a ConfigError."""
        _positive(self)


@dataclass(frozen=True)
class Ingest:
    """Processes that only ingest, beside the server."""

    workers: int = 4  # `skerry-cloud ingest` that may run at once; each has an identity towards the broker

    def __post_init__(self) -> None:
        """Raises ValueError, which ``decode`` turns into a ConfigError."""
        if not 0 <= self.workers <= MAX_WORKERS:
            raise ValueError(f"workers: needs a number from 0 to {MAX_WORKERS}")


@dataclass(frozen=True)
class Drift:
    """When to raise an alarm."""

    false_alarm_days: float = 30.0  # between two false alarms of the whole fleet, all tests together; at least
    tolerance: float = 0.01  # share of a channel's traffic that may be other than in the reference, 0 to 1

    def __post_init__(self) -> None:
        """Raises ValueError, which ``decode`` turns into a ConfigError."""
        if self.false_alarm_days <= 0:
            raise ValueError("false_alarm_days: needs to be above 0; 30 is a false alarm a month at most")
        if not 0 <= self.tolerance < 1:
            raise ValueError("tolerance: needs a share of the traffic, from 0 to below 1")


@dataclass(frozen=True)
class Retrain:
    """When to retrain by itself, and what a candidate may lose. It must always be better on recent data.

    A workload's own table holds for it instead of this one, whole: what it leaves out is the default.
    """

    enabled: bool = True
    on: tuple[Literal["harm", "alarm", "estimate", "schedule", "labels"], ...] = ("harm",)  # any of these asks for it
    min_harm: float = 2.0  # harm: points of accuracy that labels have to prove lost on what drifted
    min_accuracy: float = 0.0  # estimate: retrain where the guess without labels is surely below, 0 to 1
    every_days: float = 0.0  # schedule: days since the last training
    new_labels: int = 0  # labels: so many labelled samples since the last training
    min_labels: int = 200  # labelled samples to learn from, whatever asks: of alarmed devices since their alarm
    pseudo_labels: int = 0  # samples without a label, at most, that the workload's teacher labels for a retraining
    pseudo_sure: float = 0.95  # of a label, at least, by the teacher's own word, and proven on samples that have one
    hours: tuple[int, ...] = ()  # of the day, 0 to 23, when a retraining may start; none: at any
    approval: bool = False  # publish a candidate, but leave its rollout to an operator
    max_loss: float | None = None  # points of accuracy on the old data that a candidate may lose; else the workload's
    cooldown_minutes: float = 30.0  # between two retrainings of a workload
    epochs: int = 0  # 0: the workload's own number
    budget_minutes: float = 0.0  # a calendar month, of all retrainings that this table is for; 0: no limit
    budget_money: float = 0.0  # likewise, in the currency of cost.per_minute
    own: dict[str, "Retrain"] = field(default_factory=dict)  # by workload, as in [retrain.own.casting]

    def __post_init__(self) -> None:
        """Raises ValueError, which ``decode`` turns into a ConfigError."""
        for trigger, key in (("estimate", "min_accuracy"), ("schedule", "every_days"), ("labels", "new_labels")):
            if trigger in self.on and getattr(self, key) <= 0:
                raise ValueError(f"{key}: needs to be above 0 where on has {trigger!r}")
        if self.pseudo_labels < 0 or not 0.5 <= self.pseudo_sure <= 1:
            raise ValueError("pseudo_labels, pseudo_sure: need a number from 0, and a probability from 0.5 to 1")
        if self.min_accuracy > 1:
            raise ValueError("min_accuracy: needs a share from 0 to 1")
        if min(self.every_days, self.new_labels, self.budget_minutes, self.budget_money) < 0:
            raise ValueError("every_days, new_labels and budgets: need nothing below 0")
        if nested := next((name for name, table in self.own.items() if table.own), ""):
            raise ValueError(f"own.{nested}: has an own table in it; there is one level of them")
        if not all(0 <= hour < 24 for hour in self.hours):
            raise ValueError("hours: needs hours of the day, from 0 to 23")
        if self.min_labels < 1 or min(self.min_harm, self.cooldown_minutes, self.epochs, self.max_loss or 0) < 0:
            raise ValueError("needs min_labels >= 1, and nothing below 0")


@dataclass(frozen=True)
class Cost:
    """What a heavy step costs; it is recorded with each run, and counts against budgets."""

    per_minute: float = 0.0  # in any currency

    def __post_init__(self) -> None:
        """Raises ValueError, which ``decode`` turns into a ConfigError."""
        if self.per_minute < 0:
            raise ValueError("per_minute: needs nothing below 0")


@dataclass(frozen=True)
class Lake:
    """How long telemetry stays, and where. Days count from when the cloud received it."""

    cold: str = ""  # folder or URL to which old rows move, compressed harder; none: they stay
    hot_days: float = 30.0  # until they move
    keep_days: float = 0.0  # until they are deleted; 0 is never
    keep: dict[str, float] = field(default_factory=dict)  # the same for single tables, as in samples = 90
    vacuum_hours: float = 24.0  # for which files that were compacted, moved or deleted stay for who still reads them

    def __post_init__(self) -> None:
        """Raises ValueError, which ``decode`` turns into a ConfigError."""
        if self.hot_days <= 0 or min(self.keep_days, self.vacuum_hours, *self.keep.values(), 0) < 0:
            raise ValueError("needs hot_days above 0, and nothing below 0")
        for table in self.keep:
            if table not in (*TABLES, "quarantine"):
                raise ValueError(f"keep: no table {table!r}; known: {', '.join(TABLES)}, quarantine")

    def cold_url(self, folder: Path) -> str:
        """``cold``, a relative folder taken to be in ``folder``."""
        return str(folder / self.cold) if self.cold and "://" not in self.cold else self.cold


@dataclass(frozen=True)
class Route:
    """Where alarms are told. A secret is in a file, never here: the webhook's key, the mail user's password, the
    Alertmanager's bearer token."""

    kind: Literal["webhook", "mail", "alertmanager"]
    url: str  # https://…; of a mail server smtp://[user@]host[:587] (with STARTTLS) or smtps://[user@]host[:465]
    step: int = 0  # 0: told at once; n: told after n × escalate_hours without an acknowledgement
    secret: Path | None = None
    authority: Path | None = None  # certificates to trust instead of the system's, PEM
    workloads: tuple[str, ...] = ()  # only these; none: all
    to: str = ""  # address of a mail; none: the alarm's owner
    sender: str = "skerry@localhost"

    def __post_init__(self) -> None:
        """Raises ValueError, which ``decode`` turns into a ConfigError."""
        parts = urlsplit(self.url)
        schemes = ("smtp", "smtps") if self.kind == "mail" else ("https",)
        if parts.scheme not in schemes and not (parts.scheme == "http" and self.kind != "mail" and self.local):
            raise ValueError(f"url: a {self.kind} needs {' or '.join(f'{scheme}://' for scheme in schemes)}")
        if not parts.hostname or parts.password is not None:
            raise ValueError("url: needs a host, and no password: that is in the file named by secret")
        if self.step < 0:
            raise ValueError("step: needs a number from 0 on")
        if self.kind == "webhook" and self.secret is None:
            raise ValueError("secret: a webhook is signed; name a file with whsec_ and base64 of 32 random bytes")

    @property
    def local(self) -> bool:
        """Does it stay on this machine?"""
        return urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Alarms:
    """Whom to tell of alarms, and when to tell more."""

    escalate_hours: float = 4.0  # without an acknowledgement, until the routes of the next step are told
    give_up_days: float = 7.0  # what cannot be told for so long is given up
    routes: dict[str, Route] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError, which ``decode`` turns into a ConfigError."""
        if min(self.escalate_hours, self.give_up_days) <= 0:
            raise ValueError("escalate_hours, give_up_days: need to be above 0")


@dataclass(frozen=True)
class Compress:
    """Where candidates are made."""

    ray: str = ""  # "auto" or "ray://host:port": on a Ray cluster that sees this folder; none: on this machine


@dataclass(frozen=True)
class CloudConfig:
    """The whole file."""

    fleet: str
    database: str = "sqlite+aiosqlite:///state.db"  # or postgresql+asyncpg://user:password@host/name
    workloads: dict[str, str] = field(default_factory=dict)  # name = "path/to/file.py:Class"
    listen: Listen = field(default_factory=Listen)
    devices: Devices = field(default_factory=Devices)
    compress: Compress = field(default_factory=Compress)
    rollouts: Rollouts = field(default_factory=Rollouts)
    ingest: Ingest = field(default_factory=Ingest)
    drift: Drift = field(default_factory=Drift)
    lake: Lake = field(default_factory=Lake)
    alarms: Alarms = field(default_factory=Alarms)
    cost: Cost = field(default_factory=Cost)
    retrain: Retrain = field(default_factory=Retrain)

    def database_url(self, folder: Path) -> str:
        """``database``, a relative SQLite file taken to be in ``folder``."""
        prefix, _, file = self.database.partition(":///")
        return f"{prefix}:///{folder / file}" if prefix.startswith("sqlite") else self.database

    def __post_init__(self) -> None:
        """Names are checked here, so that a wrong one is found on start."""
        check_name("fleet", self.fleet)
        if not self.database.startswith(DATABASES):
            raise ValueError(f"database: needs a URL that begins with {' or '.join(DATABASES)}")
        if "asyncpg" in self.database and not find_spec("asyncpg"):
            raise ValueError("database: PostgreSQL needs pip install 'skerry[cloud,postgres]'")
        if self.ingest.workers and self.lake.vacuum_hours < 1:  # what a worker writes is in no version at first
            raise ValueError("lake.vacuum_hours: needs 1 at least, or ingest.workers = 0")
        budgets = [table.budget_money for table in (self.retrain, *self.retrain.own.values())]
        if any(budgets) and not self.cost.per_minute:
            raise ValueError("cost.per_minute: needs to be above 0, or no budget_money is ever spent")
        for name in self.workloads:
            check_name("workload", name)
        known = sorted({*plugins.names("skerry.workloads"), *self.workloads})
        if strange := self.retrain.own.keys() - set(known):
            raise ValueError(f"retrain.own.{min(strange)}: no such workload; known: {', '.join(known)}")


def _positive(table: Devices | Rollouts) -> None:
    for name, value in vars(table).items():
        if value <= 0:
            raise ValueError(f"{name}: needs to be above 0, got {value}")


def load(folder: Path) -> CloudConfig:
    """The configuration in ``folder``. Raises ConfigError that names the key."""
    return load_toml(CloudConfig, folder / FILE)


TEMPLATE = """\
# Skerry's cloud side. Delete a line to get its default; `skerry-cloud check` says whether the file is right.
fleet = "{fleet}"

[workloads]
# Your own: name = "file.py:Class", the path relative to this folder. Built in: fashion, digits.
# casting = "casting.py:Casting"

[listen]
address = "{address}"
hosts = {hosts}   # names under which devices reach this machine, the first one first: they go into the certificate
https_port = {https_port}
grpc_port = {grpc_port}
mqtt_port = {mqtt_port}
mqtt = true                          # start Mosquitto as a child process where it is installed

[devices]
certificate_days = 90
token_hours = 24

[ingest]
workers = 4                          # `skerry-cloud ingest` that may run at once, where one process is not enough

[compress]
ray = ""                             # "auto" or "ray://host:port": a Ray cluster that sees this folder makes candidates

[rollouts]
canary = 1
wave_minutes = 60.0

[drift]
false_alarm_days = 30.0              # between two false alarms of the whole fleet, all tests together; at least
tolerance = 0.01                     # share of the traffic that may be other than in the reference

[lake]
# cold = "cold"                      # folder or URL (s3://…) to which rows move after hot_days
hot_days = 30.0
keep_days = 0.0                      # until rows are deleted; 0: never
# keep = {{ samples = 90.0 }}          # … of single tables

[alarms]
escalate_hours = 4.0                 # without `skerry drift ack`, until the routes of the next step are told
# [alarms.routes.team]
# kind = "webhook"                   # signed JSON; or "mail", "alertmanager"
# url = "https://hooks.example.org/skerry"
# secret = "keys/team.secret"        # echo whsec_$(openssl rand -base64 32) > keys/team.secret
# [alarms.routes.owner]
# kind = "mail"                      # to the alarm's owner, or to = "…"
# url = "smtp://skerry@mail.example.org:587"
# secret = "keys/mail.password"
# step = 1                           # told when nobody acknowledged for 1 × escalate_hours

[retrain]
enabled = true
on = ["harm"]                        # drift may do no harm; "alarm" retrains all the same; see docs/retraining.md
min_harm = 2.0                       # points of accuracy that labels have to prove lost
min_labels = 200                     # labelled samples since the alarm
approval = false                     # true: publish, but leave the rollout to an operator
cooldown_minutes = 30.0
# hours = [22, 23, 0, 1, 2, 3]       # when one may start
# budget_money = 50.0                # a month, by [cost] per_minute

# [retrain.own.casting]              # holds for this workload instead of [retrain]
# on = ["schedule"]
# every_days = 30

[cost]
per_minute = 0.0                     # of training and compressing, in any currency
"""
