"""Devices, and bringing releases to them: `skerry device|rollout`."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from skerry_cloud.api_client import CloudClient
from skerry_cloud.cli.app import OUT, Json, Reason, app
from skerry_cloud.cli.terminal import cloud_of, console, event_line, listed, release_name, show, tell, when

device = typer.Typer(help="Announce devices, see what they run, take it off, revoke them.", no_args_is_help=True)
rollout = typer.Typer(help="Bring a release to devices: a canary first, then the rest.", no_args_is_help=True)
app.add_typer(rollout, name="rollout", rich_help_panel=OUT)
app.add_typer(device, name="device", rich_help_panel=OUT)


@device.command("add")
def device_add(
    context: typer.Context,
    name: str,
    profile: Annotated[str, typer.Option(help="What kind of device it is; auto: it will say.")] = "generic-x86-64",
    group: Annotated[str, typer.Option(help="A site, a line, a batch: drift is looked for in it as a whole too.")] = "",
    as_json: Json = False,
) -> None:
    """Announce a device and print its one-time enrolment token.

    Example: skerry device add edge-1 --profile generic-x86-64 --group hall-2
    """
    done = cloud_of(context).post("/devices", name=name, profile=profile, group=group)
    tell(done, as_json, done["token"])


@device.command("list")
def device_list(context: typer.Context, as_json: Json = False) -> None:
    """All devices and what they run."""
    listed(cloud_of(context).get("/devices"), as_json, {
        "device": "name", "profile": "profile", "group": "group", "state": "state",
        "link": lambda r: r["link"] or "offline",
        "runs": lambda r: ", ".join(f"{m['workload']}/{m['release']}" for m in r["runs"]) or "nothing",
        "seen": when("seen"),
    })  # fmt: skip


@device.command("show")
def device_show(context: typer.Context, name: str, as_json: Json = False) -> None:
    """A device with what it runs, how that served in the last 24 hours, and all its assignments.

    Of each model: examples answered, errors, latency, and how hot and how long throttled the board was meanwhile. Of
    a whole fleet: skerry lake query "SELECT device, workload, sum(answered), sum(errors), max(hottest_c) FROM service
    GROUP BY ALL"
    """
    show(cloud_of(context).get(f"/devices/{name}"), as_json)


@device.command("group")
def device_group(
    context: typer.Context, name: str, group: Annotated[str, typer.Argument(help="None: in no group.")] = "",
    as_json: Json = False,
) -> None:  # fmt: skip
    """Put a device into a group: a site, a line, a batch. Drift is looked for in each group as a whole, too.

    Example: skerry device group edge-1 hall-2
    """
    done = cloud_of(context).post(f"/devices/{name}/group", group=group)
    tell(done, as_json, f"device {name} is in {f'group {group}' if group else 'no group'}")


@device.command("drop")
def device_drop(
    context: typer.Context, name: str, workload: str, reason: Reason = "by the operator", as_json: Json = False
) -> None:
    """Take a workload off a device. Its other models go on; rollouts pass it by until one names it with --device.

    Example: skerry device drop edge-1 digits
    """
    done = cloud_of(context).post(f"/devices/{name}/drop", workload=workload, reason=reason)
    tell(done, as_json, f"device {name} is told to drop {workload}; `skerry device show {name}` says when it has")


@device.command("revoke")
def device_revoke(context: typer.Context, name: str, as_json: Json = False) -> None:
    """Shut a device out: its certificate no longer opens a link."""
    tell(cloud_of(context).delete(f"/devices/{name}"), as_json, f"device {name} is revoked")


@rollout.command("start")
def rollout_start(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="WORKLOAD/NUMBER")],
    canary: Annotated[int, typer.Option(help="Devices in the first wave.")] = 1,
    wave_minutes: Annotated[float, typer.Option(help="A wave that is not healthy by then halts the rollout.")] = 60.0,
    device: Annotated[list[str] | None, typer.Option(help="Only these; may be repeated.")] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Answer beside what serves, report, never switch.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to its end; exit 1 if it halts.")] = False,
    as_json: Json = False,
) -> None:
    """Start bringing a release to the devices that can run it. Models of other workloads on them stay as they are.

    Left out, unless --device names them: devices that run it already, and those that were told to drop the workload.

    Example: skerry rollout start fashion/1 --canary 1 --wait
    """
    workload, number = release_name(name)
    done = cloud_of(context).post("/rollouts", workload=workload, release=number, canary=canary,
                                wave_seconds=wave_minutes * 60, devices=device or [],
                                mode="shadow" if shadow else "serve")  # fmt: skip
    canaries = ", ".join(done["waves"][0])
    if not wait:
        hint = f"follow it with `skerry rollout show {done['id']}`"
        return tell(done, as_json, f"rollout {done['id']}: canary {canaries}; {hint}")
    done = _follow_rollout(cloud_of(context), done["id"], as_json)
    tell(done, as_json, f"rollout {done['id']}: {done['state']}, {done['reason']}")
    if done["state"] != "done":
        raise typer.Exit(1)
    return None


@rollout.command("list")
def rollout_list(context: typer.Context, as_json: Json = False) -> None:
    """All rollouts."""
    listed(cloud_of(context).get("/rollouts"), as_json, {
        "rollout": "id", "release": lambda r: f"{r['workload']}/{r['release']}", "mode": "mode", "state": "state",
        "wave": lambda r: f"{r['wave'] + 1} of {len(r['waves'])}", "started": when("created"), "reason": "reason",
    })  # fmt: skip


@rollout.command("show")
def rollout_show(context: typer.Context, number: int, as_json: Json = False) -> None:
    """A rollout and where each device stands."""
    found = cloud_of(context).get(f"/rollouts/{number}")
    if as_json:
        return show(found, True)
    name = f"{found['workload']}/{found['release']}"
    console.print(f"rollout {number} of {name}: [bold]{found['state']}[/]  {escape(found['reason'])}")
    listed(
        found["devices"], False, {"device": "device", "state": "state", "updated": when("updated"), "reason": "reason"}
    )
    return None


@rollout.command("halt")
def rollout_halt(
    context: typer.Context, number: int, reason: Reason = "by the operator", as_json: Json = False
) -> None:
    """Halt a rollout; devices that already run the release get back what they ran before."""
    tell(cloud_of(context).post(f"/rollouts/{number}/halt", reason=reason), as_json, f"rollout {number} is halted")


def _follow_rollout(cloud: CloudClient, number: int, quiet: bool) -> dict[str, Any]:
    """Show a rollout's events until it is over; the rollout."""
    for event in cloud.lines("/events?follow=1"):
        if event["kind"] != "rollout" or event["name"].split()[0] != str(number):
            continue
        if not quiet:
            typer.echo(event_line(event))
        if event["after"] in ("done", "halted"):
            break
    found: dict[str, Any] = cloud.get(f"/rollouts/{number}")
    return found
