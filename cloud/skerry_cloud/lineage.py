"""Where a release comes from and where it runs: from the devices back to the first dataset version."""

from typing import Any

from sqlalchemy import select

from skerry_cloud.store import Baseline, Bundle, Dataset, Device, Event, Installed, Release, Run, Store


async def trace(store: Store, workload: str, number: int) -> list[dict[str, Any]]:
    """Steps from devices to data, nearest first; each says what it is, its name, when and why. Raises NotFoundError."""
    release = await store.get(Release, workload, number)
    having = select(Installed.device).where(Installed.workload == workload, Installed.release == number)
    running = await store.all(select(Device).where(Device.name.in_(having)).order_by(Device.name))
    steps = [_step("device", device.name, device.seen, f"runs {workload}/{number}") for device in running]
    while True:
        run = await store.get(Run, release.run)
        steps += await _baselines(store, workload, release.number)
        steps += [await _release(store, release), await _run(store, run), await _dataset(store, workload, run.dataset)]
        if not run.parent:
            return steps
        release = await store.get(Release, workload, run.parent)


async def _release(store: Store, release: Release) -> dict[str, Any]:
    bundles = await store.all(
        select(Bundle).where(Bundle.workload == release.workload, Bundle.release == release.number)
    )
    digests = {bundle.profile: bundle.sha256 for bundle in bundles}
    name = f"{release.workload}/{release.number}"
    return _step("release", name, release.created, release.reason, owner=release.owner, bundles=digests)


async def _baselines(store: Store, workload: str, number: int) -> list[dict[str, Any]]:
    """What is normal for it by now, where that is not what the release says."""
    mine = select(Baseline).where(Baseline.workload == workload, Baseline.release == number)
    return [
        _step("baseline", row.title, row.created, row.reason, state=row.state)
        for row in await store.all(mine.order_by(Baseline.id.desc()))
    ]


async def _run(store: Store, run: Run) -> dict[str, Any]:
    why = f"warm from release {run.parent}" if run.parent else await _imported(store, run) or "from scratch"
    return _step("run", str(run.id), run.created, why, accuracy=run.accuracy, code=run.code)


async def _imported(store: Store, run: Run) -> str:
    """Which file it was, and who brought it; empty for a model that was trained here."""
    query = select(Event).where(Event.kind == "run", Event.name == str(run.id), Event.after == "importing")
    event = await store.first(query)
    return f"imported by {event.actor}: {event.reason}" if event else ""


async def _dataset(store: Store, workload: str, number: int) -> dict[str, Any]:
    dataset = await store.get(Dataset, workload, number)
    grown = f"grown from {workload}@{dataset.parent}" if dataset.parent else "from the workload's own data"
    return _step("dataset", f"{workload}@{number}", dataset.created, grown, rows=dataset.rows, sha256=dataset.sha256,
                 sources=dataset.sources)  # fmt: skip


def _step(kind: str, name: str, time: float, why: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "name": name, "time": time, "why": why, **more}
