"""Is this device fit for its job? Each check says what it found; it fails with what to do about it."""

import shutil
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509

from skerry_edge import board
from skerry_edge.config import AgentConfig, Folders, WorkloadFolder, load
from skerry_edge.https import request, trusting
from skerry_edge.infer.engines import Engines
from skerry_edge.infer.models import Loader, load_model
from skerry_edge.machine import budget_mb, settings_of, this_machine
from skerry_edge.update.probe import probe
from skerry_edge.update.slots import Slots
from skerry_edge.update.state import StateFile
from skerry_shared import bundle, profiles
from skerry_shared.bundle import Bundle
from skerry_shared.errors import ConfigError, LinkError, ModelError, SkerryError, StateError
from skerry_shared.identity import utc

TIMEOUT_S = 10.0  # of a TLS handshake
RENEW_S = 7 * 86400.0  # seconds of validity below which a certificate is a finding
SLACK_BYTES = 256 << 20  # of disk: two bundles and their downloads


@dataclass(frozen=True)
class Finding:
    """One check's outcome."""

    check: str
    ok: bool
    detail: str


Check = Callable[[Folders, AgentConfig], str]


def examine(folders: Folders) -> list[Finding]:
    """Run all checks; one that fails does not keep the others from running. Raises ConfigError if not enrolled."""
    config = load(folders)
    return [_finding(name, check, folders, config) for name, check in CHECKS.items()]


def _finding(name: str, check: Check, folders: Folders, config: AgentConfig) -> Finding:
    try:
        return Finding(name, True, check(folders, config))
    except (SkerryError, OSError) as error:
        return Finding(name, False, str(error))


def _profile(_: Folders, config: AgentConfig) -> str:
    arch, runtimes, memory = this_machine()
    profiles.load(config.profile).target(config.profile).check(arch, runtimes, memory)
    return f"{config.profile} fits: {arch}, {', '.join(runtimes)}, {memory >> 20} MB"


def _board(_: Folders, config: AgentConfig) -> str:
    found = board.read()
    profile, best = profiles.load(config.profile), profiles.profile_for(found, profiles.load_all())
    if missing := board.differences(profile, found):
        raise StateError("; ".join(missing))
    what = [found.model or "unnamed", found.arch, f"{found.cores} cores", f"{found.memory_mb} MB", found.system]
    what += [f"L4T {found.l4t}"] if found.l4t else []
    what += [f"storage {found.storage or '?'} (profile: {profile.storage})"]
    what += [f"link {', '.join(found.links) or 'none'} (profile: {profile.link})", f"kind {found.kind}"]
    return ", ".join(what) + ("" if best == config.profile else f"; looks like {best}, runs as {config.profile}")


def _heat(_: Folders, config: AgentConfig) -> str:
    profile = profiles.load(config.profile)
    now = board.condition(profile.thermal.zones)
    if now.throttled:
        raise StateError("the board is throttled now; check its cooling, its power supply and its power mode")
    heat = "no thermal zone" if now.hottest_c is None else f"{now.hottest_c:.0f} °C"
    limits = f"less work from {profile.thermal.warm_c:.0f}, least from {profile.thermal.hot_c:.0f} °C"
    return "; ".join(filter(None, (heat, limits, board.modes_differ(profile, now) or now.power_mode)))


def _plan(_: Folders, config: AgentConfig) -> str:
    profile = profiles.load(config.profile)
    chips = ", ".join(f"{chip.vendor} {chip.variant}" for chip in profile.accelerators) or "no accelerator"
    memory = f"{profile.memory_mb} MB{' shared with the accelerator' if profile.unified_memory else ''}"
    return (
        f"{profile.runtime} by {', '.join(settings_of(config).providers)} ({chips}), {profile.precision}, "
        f"{config.threads} threads, {memory}, {budget_mb(config):g} MB of it for all models; "
        f"reports by {', '.join(config.transports)}"
    )


def _model(folders: Folders, config: AgentConfig) -> str:
    def look(_: WorkloadFolder, unpacked: Bundle) -> str:
        worst = probe(load_model(unpacked, config.threads), unpacked)
        return f"release {unpacked.manifest.release}, golden outputs within {worst:.2g}"

    return _of_each(folders, look) or "none is installed yet"


def _runtime(folders: Folders, config: AgentConfig) -> str:
    settings = settings_of(config)

    def look(folder: WorkloadFolder, unpacked: Bundle) -> str:
        return Loader(Engines(folder.engines), settings).examine(unpacked)

    return _of_each(folders, look) or f"{', '.join(settings.providers)}; no model to measure yet"


def _of_each(folders: Folders, look: Callable[[WorkloadFolder, Bundle], str]) -> str:
    """What was found at each model that serves. Raises ModelError that says it too, if there is a fault at one."""
    found, faults = list[str](), 0
    for folder in folders.workloads():
        slots = Slots(folder.root)
        try:
            if active := slots.active():
                found.append(f"{folder.name}: {look(folder, bundle.load(slots.path(active.slot)))}")
        except SkerryError as error:
            faults += 1
            found.append(f"{folder.name}: {error}")
    if faults:
        raise ModelError("; ".join(found))
    return "; ".join(found)


def _certificate(folders: Folders, _: AgentConfig) -> str:
    certificate = x509.load_pem_x509_certificate(folders.certificate.read_bytes())
    until = certificate.not_valid_after_utc
    if (until - utc(time.time())).total_seconds() < RENEW_S:
        raise StateError(f"valid until {until:%Y-%m-%d %H:%M} UTC only, and not renewed; see the log, or enroll anew")
    for secret in (folders.key, folders.pseudonyms):
        if secret.exists() and secret.stat().st_mode & 0o077:
            raise StateError(f"{secret}: others can read this key; chmod 600 it")
    return f"valid until {until:%Y-%m-%d}, keys private"


def _clock(folders: Folders, _: AgentConfig) -> str:
    issued = x509.load_pem_x509_certificate(folders.certificate.read_bytes()).not_valid_before_utc
    signed = [StateFile(folder.update).load().floor for folder in folders.workloads()]
    floor = max([issued.timestamp(), *signed])
    if time.time() < floor:
        raise StateError(
            f"the clock says {utc(time.time()):%Y-%m-%d %H:%M}, it is {utc(floor):%Y-%m-%d %H:%M} or later"
        )
    return f"{utc(time.time()):%Y-%m-%d %H:%M:%S} UTC, not before anything that was signed"


def _disk(folders: Folders, config: AgentConfig) -> str:
    free, needed = shutil.disk_usage(folders.root).free, (config.spool_mb << 20) + SLACK_BYTES
    if free < needed:
        raise StateError(f"{free >> 20} MB free, {needed >> 20} MB needed for the spool and an update")
    return f"{free >> 20} MB free"


def _gateway(folders: Folders, config: AgentConfig) -> str:
    return _handshake(folders, config.gateway)


def _mqtt(folders: Folders, config: AgentConfig) -> str:
    return _handshake(folders, config.mqtt) if "mqtt" in config.transports else "not used"


def _repository(folders: Folders, config: AgentConfig) -> str:
    url = f"{config.repository.rstrip('/')}/metadata/timestamp.json"
    status, _ = request(trusting(folders.authority.read_bytes()), "GET", url)
    if status != 200:
        raise LinkError(f"{url}: answers {status}")
    return config.repository


def _handshake(folders: Folders, address: str) -> str:
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise ConfigError(f"{address!r}: not host:port")
    context = ssl.create_default_context(cafile=str(folders.authority))
    context.load_cert_chain(folders.certificate, folders.key)
    with (
        socket.create_connection((host, int(port)), TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        return f"{address}, {secured.version()}"


CHECKS: dict[str, Check] = {
    "board": _board,
    "heat": _heat,
    "profile": _profile,
    "plan": _plan,
    "model": _model,
    "runtime": _runtime,
    "certificate": _certificate,
    "clock": _clock,
    "disk": _disk,
    "repository": _repository,
    "gateway": _gateway,
    "mqtt": _mqtt,
}
