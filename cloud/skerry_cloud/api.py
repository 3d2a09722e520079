"""The HTTPS API: what the CLI calls, what devices enrol at, and the repository that they fetch from.

    /v1/authority, /v1/enroll    for devices; /v1/enroll asks for a one-time token
    /v1/renew                    for devices; asks for a proof that they have the key which was enrolled
    /repository/…                for devices; static files of the TUF repository
    /v1/…                        for operators; asks for the bearer token

Bodies are JSON objects, checked against a dataclass: an unknown key is an error that names it. Long work answers with
one JSON object a line: progress, then ``{"result": …}`` or ``{"error": …}``; it goes on if the caller goes away.
"""

import asyncio
import base64
import contextlib
import hmac
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from sqlalchemy import select
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from skerry_cloud import accuracy, alarms, lineage, runs
from skerry_cloud.drift.finding import Place
from skerry_cloud.drift.flow import DriftFlow
from skerry_cloud.fleet.director import Director, Order
from skerry_cloud.fleet.enrolment import Enrolment, Renewal
from skerry_cloud.fleet.enrolment import Request as EnrolRequest
from skerry_cloud.ingest.lake import Lake
from skerry_cloud.ingest.quarantine import quarantined
from skerry_cloud.ingest.query import query
from skerry_cloud.ingest.samples import Labelled, add_labels, served, summary, unlabelled
from skerry_cloud.ingest.upkeep import Upkeep
from skerry_cloud.job import Progress, Report
from skerry_cloud.learning import Learning
from skerry_cloud.release.repository import place
from skerry_cloud.retrain.flow import ALPHA
from skerry_cloud.retrain.harm import Accuracy, proven
from skerry_cloud.retrain.policy import Verdict, month_began
from skerry_cloud.specs import Wanted
from skerry_cloud.store import (
    Alarm,
    Assignment,
    Baseline,
    Bundle,
    Dataset,
    Delivery,
    Device,
    Event,
    Installed,
    Notice,
    Release,
    Retraining,
    Rollout,
    Run,
    Store,
    plain,
)
from skerry_shared import bundle, errors, privacy, wire
from skerry_shared.config import decode
from skerry_shared.release import Manifest
from skerry_shared.states import AlarmEvent

T = TypeVar("T")

SUFFIXES = tuple(Path(name).suffix for name in runs.FILES.values())  # of models that can be imported

ARROW = "application/vnd.apache.arrow.stream"
MAX_BODY = 1 << 20  # bytes, of JSON; a model may have as many as a bundle's member
QUERIES = 2  # of the lake at a time, others wait: ingest needs a processor as well
DAY = 86_400.0  # seconds
MAX_LABELS = 200  # asked for of an alarm: they give an accuracy to 2 or 3 points
STATUS: dict[type[errors.SkerryError], int] = {
    errors.NotFoundError: 404,
    errors.UsageError: 400,
    errors.InputError: 400,
    errors.StateError: 409,
    errors.TrustError: 403,
    errors.GateError: 422,
    errors.LinkError: 503,
    errors.SkerryError: 500,
}


@dataclass(frozen=True)
class Services:
    """What the API calls on."""

    store: Store
    learning: Learning
    director: Director
    enrolment: Enrolment
    authority: str  # PEM
    operator: str  # bearer token
    drift: DriftFlow
    lake: Lake
    upkeep: Upkeep
    labelled: Callable[[str, Mapping[str, float]], Awaitable[Labelled]]  # samples of a workload since a time each
    repository: Path
    token_seconds: float
    background: "set[asyncio.Task[Any]]"  # long work under way
    verdicts: Mapping[str, Verdict]  # of the retraining policy, on each workload that it looked at


@dataclass(frozen=True)
class IngestRequest:
    """POST /v1/datasets."""

    workload: str


@dataclass(frozen=True)
class TrainRequest:
    """POST /v1/runs. Dataset 0 is the newest; epochs 0 the workload's own number."""

    workload: str
    dataset: int = 0
    epochs: int = 0
    parent: int = 0


@dataclass(frozen=True)
class AdoptRequest:
    """The query of POST /v1/models, whose body is the model's file. Dataset 0 is the newest; ``file`` is its name."""

    workload: str
    file: str
    dataset: int = 0
    scores: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError, which ``decode`` turns into a UsageError."""
        if Path(self.file).name != self.file or Path(self.file).suffix not in SUFFIXES:
            raise ValueError(f"file: {self.file!r} is not the name of a file that ends in {' or '.join(SUFFIXES)}")


@dataclass(frozen=True)
class PublishRequest:
    """POST /v1/releases."""

    run: int
    reason: str = "by the operator"


@dataclass(frozen=True)
class DeviceRequest:
    """POST /v1/devices."""

    name: str
    profile: str
    group: str = ""


@dataclass(frozen=True)
class GroupRequest:
    """POST /v1/devices/NAME/group. No ``group`` takes the device out of its group."""

    group: str = ""


@dataclass(frozen=True)
class Label:
    """What one sampled input really was."""

    device: str
    prediction_id: str
    label: str


@dataclass(frozen=True)
class LabelsRequest:
    """POST /v1/alarms/ID/labels."""

    labels: tuple[Label, ...]


@dataclass(frozen=True)
class QueryRequest:
    """POST /v1/lake/query."""

    sql: str


@dataclass(frozen=True)
class MaintainRequest:
    """POST /v1/lake/maintain."""

    dry_run: bool = False


@dataclass(frozen=True)
class DropRequest:
    """POST /v1/devices/NAME/drop."""

    workload: str
    reason: str = "by the operator"


@dataclass(frozen=True)
class ReasonRequest:
    """POST /v1/rollouts/ID/halt, /v1/alarms/ID/resolve, /v1/baselines/ID/take-back."""

    reason: str = "by the operator"


@dataclass(frozen=True)
class AcknowledgeRequest:
    """POST /v1/alarms/ID/acknowledge. No ``owner`` leaves it whose it is."""

    owner: str = ""
    reason: str = "by the operator"


@dataclass(frozen=True)
class RebaseRequest:
    """POST /v1/baselines. Release 0 is the newest; ``name`` of a device or group."""

    workload: str
    hours: float
    reason: str
    level: Literal["device", "group", "fleet"] = "fleet"
    name: str = ""
    release: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError, which ``decode`` turns into a UsageError."""
        if self.hours <= 0 or not self.reason.strip() or (self.level == "fleet") != (self.name == ""):
            raise ValueError("needs hours above 0, a reason, and a name unless it is about the fleet")


@dataclass(frozen=True)
class AssignRequest:
    """POST /v1/alarms/ID/assign."""

    owner: str
    reason: str = "by the operator"

    def __post_init__(self) -> None:
        """Raises ValueError, which ``decode`` turns into a UsageError."""
        if not self.owner.strip():
            raise ValueError("owner: name somebody")


def create(services: Services) -> Starlette:
    """The application."""
    api = _Api(services)
    routes = [
        Route("/v1/authority", api.authority),
        Route("/v1/enroll", api.enroll, methods=["POST"]),
        Route("/v1/renew", api.renew, methods=["POST"]),
        Route("/v1/workloads", api.workloads),
        Route("/v1/datasets", api.rows(Dataset, Dataset.created)),
        Route("/v1/datasets", api.ingest, methods=["POST"]),
        Route("/v1/runs", api.rows(Run, Run.id)),
        Route("/v1/runs", api.train, methods=["POST"]),
        Route("/v1/runs/{run:int}", api.run),
        Route("/v1/runs/{run:int}/variants", api.compress, methods=["POST"]),
        Route("/v1/runs/{run:int}/report", api.page),
        Route("/v1/models", api.adopt, methods=["POST"]),
        Route("/v1/releases", api.rows(Release, Release.created)),
        Route("/v1/releases", api.publish, methods=["POST"]),
        Route("/v1/releases/{workload}/{number:int}", api.release),
        Route("/v1/releases/{workload}/{number:int}/bundles/{profile}", api.bundle),
        Route("/v1/devices", api.devices),
        Route("/v1/devices", api.announce, methods=["POST"]),
        Route("/v1/devices/{name}", api.device),
        Route("/v1/devices/{name}", api.revoke, methods=["DELETE"]),
        Route("/v1/devices/{name}/group", api.group, methods=["POST"]),
        Route("/v1/devices/{name}/drop", api.drop, methods=["POST"]),
        Route("/v1/rollouts", api.rows(Rollout, Rollout.id)),
        Route("/v1/rollouts", api.start_rollout, methods=["POST"]),
        Route("/v1/rollouts/{rollout:int}", api.rollout),
        Route("/v1/rollouts/{rollout:int}/halt", api.halt, methods=["POST"]),
        Route("/v1/telemetry", api.telemetry),
        Route("/v1/lake", api.lake),
        Route("/v1/lake/quarantine", api.quarantine),
        Route("/v1/lake/query", api.query, methods=["POST"]),
        Route("/v1/lake/maintain", api.maintain, methods=["POST"]),
        Route("/v1/alarms", api.rows(Alarm, Alarm.id)),
        Route("/v1/alarms/{alarm:int}", api.alarm),
        Route("/v1/alarms/{alarm:int}/labels", api.wanted_labels),
        Route("/v1/alarms/{alarm:int}/labels", api.add_labels, methods=["POST"]),
        Route("/v1/alarms/{alarm:int}/acknowledge", api.acknowledge, methods=["POST"]),
        Route("/v1/alarms/{alarm:int}/assign", api.assign, methods=["POST"]),
        Route("/v1/alarms/{alarm:int}/resolve", api.resolve, methods=["POST"]),
        Route("/v1/baselines", api.rows(Baseline, Baseline.id)),
        Route("/v1/baselines", api.rebase, methods=["POST"]),
        Route("/v1/baselines/{baseline:int}/take-back", api.take_back, methods=["POST"]),
        Route("/v1/retrainings", api.retrainings),
        Route("/v1/costs", api.costs),
        Route("/v1/events", api.events),
        Mount("/repository", StaticFiles(directory=services.repository)),
    ]
    handlers: dict[Any, Any] = {errors.SkerryError: _refuse, HTTPException: _refuse_http}
    return Starlette(routes=routes, exception_handlers=handlers)


class _Api:
    """One method a route: decode, call, encode."""

    def __init__(self, services: Services) -> None:
        self._s = services
        self._labelling = asyncio.Lock()  # one set of labels after the other
        self._querying = asyncio.Semaphore(QUERIES)

    async def authority(self, _: Request) -> Response:
        return PlainTextResponse(self._s.authority)

    async def enroll(self, request: Request) -> Response:
        asked = await _body(EnrolRequest, request)
        return JSONResponse(await self._s.enrolment.enroll(asked, time.time()))

    async def renew(self, request: Request) -> Response:
        return JSONResponse(await self._s.enrolment.renew(await _body(Renewal, request), time.time()))

    def rows(self, table: Any, order: Any) -> Callable[[Request], Awaitable[Response]]:
        """A route that lists a table."""

        async def answer(request: Request) -> Response:
            self._authorize(request)
            return JSONResponse([plain(row) for row in await self._s.store.all(select(table).order_by(order))])

        return answer

    async def workloads(self, request: Request) -> Response:
        self._authorize(request)
        return JSONResponse([{"name": name} for name in self._s.learning.workloads()])

    async def ingest(self, request: Request) -> Response:
        asked = await self._asked(IngestRequest, request)
        return self._long(lambda report: self._s.learning.ingest(asked.workload, "operator", report))

    async def train(self, request: Request) -> Response:
        asked = await self._asked(TrainRequest, request)
        return self._long(
            lambda report: self._s.learning.train(
                asked.workload, asked.dataset, asked.parent, asked.epochs, "operator", report
            )
        )

    async def adopt(self, request: Request) -> Response:
        self._authorize(request)
        query = dict(request.query_params)
        number = {"dataset": int(query["dataset"])} if query.get("dataset", "").isdecimal() else {}
        asked = decode(AdoptRequest, query | number, request.url.path)
        file = self._s.learning.inbox() / asked.file
        await _save(request, file)
        return self._long(
            lambda report: self._s.learning.adopt(asked.workload, asked.dataset, file, asked.scores, "operator", report)
        )

    async def run(self, request: Request) -> Response:
        self._authorize(request)
        run = await self._s.store.get(Run, request.path_params["run"])
        return JSONResponse(plain(run) | {"report": self._s.learning.report(run.id)})

    async def page(self, request: Request) -> Response:
        """The report of a run's compression: one page of HTML."""
        self._authorize(request)
        run = await self._s.store.get(Run, request.path_params["run"])
        return FileResponse(self._s.learning.page(run.id), media_type="text/html")

    async def compress(self, request: Request) -> Response:
        wanted, run = await self._asked(Wanted, request), request.path_params["run"]
        return self._long(lambda report: self._s.learning.compress(run, wanted, "operator", report))

    async def publish(self, request: Request) -> Response:
        asked = await self._asked(PublishRequest, request)
        release = await self._s.learning.publish(asked.run, asked.reason, "operator")
        return JSONResponse(plain(release) | await self._policy(release.workload, release.number))

    async def release(self, request: Request) -> Response:
        self._authorize(request)
        key = (request.path_params["workload"], request.path_params["number"])
        release = await self._s.store.get(Release, *key)
        bundles = await self._s.store.all(select(Bundle).where(Bundle.workload == key[0], Bundle.release == key[1]))
        links = {"report": f"/v1/runs/{release.run}/report"} | await self._policy(*key)
        answer = plain(release) | links | {"bundles": [plain(bundle) for bundle in bundles]}
        return JSONResponse(answer | {"lineage": await lineage.trace(self._s.store, *key)})

    async def _policy(self, workload: str, release: int) -> dict[str, Any]:
        """What devices keep of each field of the input, and which ones a retraining on their samples does not see."""
        fields = (await self._manifest(workload, release)).fields
        return {"policy": {field.name: privacy.told(field) for field in fields}, "unseen": privacy.hidden(fields)}

    async def bundle(self, request: Request) -> Response:
        self._authorize(request)
        asked = [request.path_params[name] for name in ("workload", "number", "profile")]
        found = await self._s.store.get(Bundle, *asked)
        return FileResponse(place(self._s.repository / "targets", found.path, found.sha256))

    async def announce(self, request: Request) -> Response:
        asked = await self._asked(DeviceRequest, request)
        seconds, now = self._s.token_seconds, time.time()
        token = await self._s.enrolment.announce(asked.name, asked.profile, seconds, now, asked.group)
        return JSONResponse({"device": asked.name, "token": token})

    async def devices(self, request: Request) -> Response:
        self._authorize(request)
        found = await self._s.store.all(select(Device).order_by(Device.name))
        runs = defaultdict[str, list[Installed]](list)
        for installed in await self._s.store.all(select(Installed).order_by(Installed.workload)):
            runs[installed.device].append(installed)
        return JSONResponse([_device(row, runs[row.name]) for row in found])

    async def device(self, request: Request) -> Response:
        self._authorize(request)
        device = await self._s.store.get(Device, request.path_params["name"])
        installed = select(Installed).where(Installed.device == device.name).order_by(Installed.workload)
        history = select(Assignment).where(Assignment.device == device.name).order_by(Assignment.counter)
        told = [plain(row) for row in await self._s.store.all(history)]
        service = await asyncio.to_thread(served, self._s.lake, device.name, time.time() - DAY)
        document = _device(device, await self._s.store.all(installed))
        return JSONResponse(document | {"assignments": told, "service": service})

    async def drop(self, request: Request) -> Response:
        asked, name = await self._asked(DropRequest, request), request.path_params["name"]
        told = await self._s.director.drop(name, asked.workload, "operator", asked.reason, time.time())
        return JSONResponse(plain(told))

    async def group(self, request: Request) -> Response:
        asked = await self._asked(GroupRequest, request)
        await self._s.enrolment.group(request.path_params["name"], asked.group, time.time())
        return await self.device(request)

    async def revoke(self, request: Request) -> Response:
        self._authorize(request)
        await self._s.enrolment.revoke(request.path_params["name"], time.time())
        return await self.device(request)

    async def start_rollout(self, request: Request) -> Response:
        order = await self._asked(Order, request)
        return JSONResponse(plain(await self._s.director.start(order, "operator", time.time())))

    async def rollout(self, request: Request) -> Response:
        self._authorize(request)
        rollout = await self._s.store.get(Rollout, request.path_params["rollout"])
        told = select(Assignment).where(Assignment.rollout == rollout.id).order_by(Assignment.counter)
        return JSONResponse(plain(rollout) | {"devices": [plain(row) for row in await self._s.store.all(told)]})

    async def halt(self, request: Request) -> Response:
        asked = await self._asked(ReasonRequest, request)
        number = request.path_params["rollout"]
        return JSONResponse(plain(await self._s.director.stop(number, "operator", asked.reason, time.time())))

    async def telemetry(self, request: Request) -> Response:
        """Rows in the lake by device and table, when the newest arrived, and what could not be answered at once."""
        self._authorize(request)
        return JSONResponse(await asyncio.to_thread(summary, self._s.lake))

    async def lake(self, request: Request) -> Response:
        """The lake's tables."""
        self._authorize(request)
        return JSONResponse(await asyncio.to_thread(self._s.lake.tables))

    async def quarantine(self, request: Request) -> Response:
        self._authorize(request)
        return JSONResponse(await asyncio.to_thread(quarantined, self._s.lake))

    async def query(self, request: Request) -> Response:
        """What a SELECT gives, as an Arrow IPC stream."""
        asked = await self._asked(QueryRequest, request)
        folder = tempfile.TemporaryDirectory(prefix="skerry-query-")
        result = Path(folder.name) / "result.arrows"
        try:
            async with self._querying:
                await asyncio.to_thread(query, self._s.lake, asked.sql, result)
        except BaseException:
            folder.cleanup()
            raise
        return FileResponse(result, media_type=ARROW, background=BackgroundTask(folder.cleanup))

    async def maintain(self, request: Request) -> Response:
        asked = await self._asked(MaintainRequest, request)

        async def work(report: Report) -> dict[str, Any]:
            done = await self._s.upkeep.run(asked.dry_run, "operator", report)
            return {"tables": [asdict(table) for table in done]}

        return self._long(work)

    async def alarm(self, request: Request) -> Response:
        """With its history, whom it was told, and what is known of the accuracy on its devices: before, now by labels,
        and a guess without."""
        self._authorize(request)
        alarm = await self._s.store.get(Alarm, request.path_params["alarm"])
        told = {"history": await self._history(alarm), "told": await self._told(alarm)}
        return JSONResponse(plain(alarm) | told | {"accuracy": await self._accuracy(alarm)})

    async def _history(self, alarm: Alarm) -> list[dict[str, Any]]:
        mine = select(Event).where(Event.name == alarm.title, Event.kind.in_(["alarm", "health"]))
        return [plain(event) for event in await self._s.store.all(mine.order_by(Event.id))]

    async def _told(self, alarm: Alarm) -> list[dict[str, Any]]:
        """Each delivery, and what of."""
        notices = await self._s.store.all(select(Notice).where(Notice.alarm == alarm.id))
        what = {notice.id: notice.what for notice in notices}
        mine = select(Delivery).where(Delivery.notice.in_(what)).order_by(Delivery.notice, Delivery.route)
        return [plain(one) | {"what": what[one.notice]} for one in await self._s.store.all(mine)]

    async def wanted_labels(self, request: Request) -> Response:
        """Up to ?count= samples of the alarm's devices since the alarm, at random, whose truth nobody told yet."""
        self._authorize(request)
        alarm = await self._s.store.get(Alarm, request.path_params["alarm"])
        count = _count(request.query_params.get("count", "10"))
        since, manifest = (
            dict.fromkeys(alarm.devices, alarm.raised),
            await self._manifest(alarm.workload, alarm.release),
        )
        spec = manifest.inputs[0]
        rows = await asyncio.to_thread(unlabelled, self._s.lake, alarm.workload, since, spec, count)
        samples = [
            row | {"input": base64.b64encode(row["input"].tobytes()).decode(), "answer": manifest.labels[row["answer"]]}
            for row in rows
        ]
        answer = {"labels": manifest.labels, "dtype": spec.dtype, "shape": spec.shape[1:], "samples": samples}
        return JSONResponse(answer)

    async def add_labels(self, request: Request) -> Response:
        asked = await self._asked(LabelsRequest, request)
        alarm = await self._s.store.get(Alarm, request.path_params["alarm"])
        known = (await self._manifest(alarm.workload, alarm.release)).labels
        for label in asked.labels:
            if label.label not in known:
                raise errors.InputError(f"label: {label.label!r} is not one of {', '.join(known)}")
            if label.device not in alarm.devices:
                raise errors.InputError(f"device: alarm {alarm.id} is not about {label.device!r}")
        told = [(label.device, label.prediction_id, label.label) for label in asked.labels]
        async with self._labelling:
            await asyncio.to_thread(add_labels, self._s.lake, told, time.time())
        return JSONResponse({"labels": len(told)})

    async def _accuracy(self, alarm: Alarm) -> dict[str, Any]:
        since = dict.fromkeys(alarm.devices, alarm.raised)
        before, guess = await accuracy.estimate(
            self._s.store, self._s.drift.normal, self._s.lake, alarm.workload, alarm.release, since
        )
        samples = await self._s.labelled(alarm.workload, since)
        mine = samples.releases == alarm.release
        now = proven(samples.right[mine], samples.probabilities[mine], samples.audits[mine], ALPHA)
        return {"before": before, "now": _figures(now), "guess": _figures(guess)}

    async def _manifest(self, workload: str, release: int) -> Manifest:
        bundle = await self._s.store.first(select(Bundle).where(Bundle.workload == workload, Bundle.release == release))
        if not bundle:
            raise errors.NotFoundError(f"release: no {workload}/{release}")
        return wire.from_json(Manifest, bundle.manifest)

    async def acknowledge(self, request: Request) -> Response:
        asked, now = await self._asked(AcknowledgeRequest, request), time.time()
        async with self._s.store.begin() as session:
            alarm = await alarms.get(session, request.path_params["alarm"])
            if owner := asked.owner.strip():
                alarms.assign(session, alarm, owner, asked.reason, "operator", now)
            alarms.move(session, alarm, AlarmEvent.ACKNOWLEDGED, asked.reason, "operator", now)
        return JSONResponse(plain(alarm))

    async def resolve(self, request: Request) -> Response:
        asked = await self._asked(ReasonRequest, request)
        async with self._s.store.begin() as session:
            alarm = await alarms.get(session, request.path_params["alarm"])
            alarms.move(session, alarm, AlarmEvent.RESOLVED, asked.reason, "operator", time.time())
        return JSONResponse(plain(alarm))

    async def assign(self, request: Request) -> Response:
        asked = await self._asked(AssignRequest, request)
        async with self._s.store.begin() as session:
            alarm = await alarms.get(session, request.path_params["alarm"])
            alarms.assign(session, alarm, asked.owner.strip(), asked.reason, "operator", time.time())
        return JSONResponse(plain(alarm))

    async def rebase(self, request: Request) -> Response:
        asked, now = await self._asked(RebaseRequest, request), time.time()
        place = Place(asked.level, asked.name, asked.workload, asked.release or await self._newest(asked.workload))
        row = await self._s.drift.rebase(place, now - asked.hours * 3600, asked.reason, "operator", now)
        return JSONResponse(plain(row))

    async def take_back(self, request: Request) -> Response:
        asked = await self._asked(ReasonRequest, request)
        number = request.path_params["baseline"]
        return JSONResponse(plain(await self._s.drift.take_back(number, asked.reason, "operator", time.time())))

    async def _newest(self, workload: str) -> int:
        mine = select(Release).where(Release.workload == workload).order_by(Release.number.desc())
        if found := await self._s.store.first(mine):
            return found.number
        raise errors.NotFoundError(f"release: none of {workload!r}")

    async def retrainings(self, request: Request) -> Response:
        """What was begun, with its cost, and why nothing more is now."""
        self._authorize(request)
        begun = await self._s.store.all(select(Retraining).order_by(Retraining.id))
        runs = await self._s.store.all(select(Run).where(Run.id.in_({row.run for row in begun})))
        cost = {run.id: {"seconds": run.seconds, "cost": run.cost} for run in runs}
        rows = [plain(row) | cost.get(row.run, {"seconds": 0.0, "cost": 0.0}) for row in begun]
        verdicts = [{"workload": name, **asdict(verdict)} for name, verdict in sorted(self._s.verdicts.items())]
        return JSONResponse({"retrainings": rows, "verdicts": verdicts})

    async def costs(self, request: Request) -> Response:
        """Of all runs, by calendar month in which they were made and by workload."""
        self._authorize(request)
        found = defaultdict[tuple[float, str], list[Run]](list)
        for run in await self._s.store.all(select(Run).order_by(Run.created)):
            found[month_began(run.created), run.workload].append(run)
        return JSONResponse([
            {"month": month, "workload": workload, "runs": len(of), "seconds": sum(run.seconds for run in of),
             "cost": sum(run.cost for run in of)}
            for (month, workload), of in found.items()
        ])  # fmt: skip

    async def events(self, request: Request) -> Response:
        """Events after ?after=ID; with ?follow=1 one a line as they happen."""
        self._authorize(request)
        given = request.query_params.get("after", "0")
        if not (given.isascii() and given.isdigit() and len(given) < 19):
            raise errors.UsageError(f"after: expected the id of an event, got {given!r}")
        after = int(given)
        if request.query_params.get("follow"):
            return StreamingResponse(self._follow(after), media_type="application/x-ndjson")
        found = await self._s.store.all(select(Event).where(Event.id > after).order_by(Event.id))
        return JSONResponse([plain(event) for event in found])

    async def _follow(self, last: int) -> AsyncIterator[str]:
        while True:
            for event in await self._s.store.events_after(last):
                last = event.id
                yield json.dumps(plain(event)) + "\n"

    async def _asked(self, cls: type[T], request: Request) -> T:
        self._authorize(request)
        return await _body(cls, request)

    def _authorize(self, request: Request) -> None:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._s.operator}".encode()):
            raise HTTPException(401, "operator token: missing or wrong")

    def _long(self, work: Callable[[Report], Awaitable[Any]]) -> Response:
        queue: asyncio.Queue[Progress | dict[str, Any]] = asyncio.Queue()
        task = asyncio.ensure_future(_finish(work, queue))
        self._s.background.add(task)
        task.add_done_callback(self._s.background.discard)
        return StreamingResponse(_lines(queue), media_type="application/x-ndjson")


def _device(row: Device, installed: Sequence[Installed]) -> dict[str, Any]:
    """A device, and the releases that it runs, one a workload."""
    return plain(row) | {"runs": [{"workload": one.workload, "release": one.release} for one in installed]}


async def _finish(work: Callable[[Report], Awaitable[Any]], queue: "asyncio.Queue[Progress | dict[str, Any]]") -> None:
    try:
        result = await work(queue.put_nowait)
        queue.put_nowait({"result": result if isinstance(result, dict) else plain(result)})
    except errors.SkerryError as error:
        queue.put_nowait({"error": str(error), "kind": type(error).__name__})
    except BaseException as error:
        queue.put_nowait({"error": f"internal error: {error!r}", "kind": "SkerryError"})
        raise


async def _lines(queue: "asyncio.Queue[Progress | dict[str, Any]]") -> AsyncIterator[str]:
    while isinstance(item := await queue.get(), Progress):
        yield json.dumps(asdict(item)) + "\n"
    yield json.dumps(item) + "\n"


async def _save(request: Request, file: Path) -> None:
    """The body as this file, no longer than a bundle may hold."""
    length = 0
    with file.open("wb") as content:
        async for chunk in request.stream():
            length += len(chunk)
            if length > bundle.MAX_BYTES:
                raise HTTPException(413, f"body: more than {bundle.MAX_BYTES} bytes")
            await asyncio.to_thread(content.write, chunk)


async def _body(cls: type[T], request: Request) -> T:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"body: more than {MAX_BODY} bytes")
    document: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(body or b"{}")
    if not isinstance(document, dict):
        raise errors.UsageError("body: not a JSON object")
    return decode(cls, document, request.url.path)


def _count(given: str) -> int:
    if not (given.isascii() and given.isdigit() and 0 < int(given) <= MAX_LABELS):
        raise errors.UsageError(f"count: expected a number from 1 to {MAX_LABELS}, got {given!r}")
    return int(given)


def _figures(accuracy: Accuracy) -> dict[str, Any] | None:
    """None where there are no answers to tell it."""
    return asdict(accuracy) if accuracy.size else None


async def _refuse(_: Request, error: Exception) -> Response:
    status = next(code for kind, code in STATUS.items() if isinstance(error, kind))
    return JSONResponse({"error": str(error), "kind": type(error).__name__}, status)


async def _refuse_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail, "kind": "HTTPError"}, error.status_code)
