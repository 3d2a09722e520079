"""skerry-agent: make this machine a device of a fleet, run it, look at it.

Exit codes: 0 done, 1 failed or refused, 2 wrong usage. Errors are one line on stderr.
"""

# ruff: noqa: T201 - a command line prints

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from skerry_shared import __version__
from skerry_shared.errors import SkerryError, UsageError

FOLDER = Path("/var/lib/skerry")
LOG = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; gives back the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format=LOG, stream=sys.stderr)
    try:
        code: int = options.command(options)
    except (SkerryError, OSError) as error:
        print(f"skerry-agent: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return code


def _enroll(options: argparse.Namespace) -> int:
    from skerry_edge.enroll import enroll

    profile = _find_profile() if options.profile == "auto" else options.profile
    reply = enroll(options.folder, options.cloud, options.token, options.name, profile, options.pseudonym_key)
    start = f"start it with `skerry-agent run {options.folder}`"
    print(f"enrolled {reply.device} in fleet {reply.fleet} as {reply.profile}; {start}")
    return 0


def _find_profile() -> str:
    from skerry_edge import board
    from skerry_shared import profiles

    return profiles.profile_for(board.read(), profiles.load_all())


def _run(options: argparse.Namespace) -> int:
    import asyncio

    from skerry_edge.agent import run

    asyncio.run(run(options.folder))
    return 0


def _status(options: argparse.Namespace) -> int:
    from skerry_edge import status
    from skerry_edge.config import Folders

    found = status.read(Folders(options.folder))
    print(json.dumps(found.document(), indent=1) if options.json else status.as_text(found))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from skerry_edge.config import Folders
    from skerry_edge.doctor import examine

    findings = examine(Folders(options.folder))
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        print("\n".join(f"{'ok  ' if f.ok else 'FAIL'}  {f.check:<12} {f.detail}" for f in findings))
    return 0 if all(finding.ok for finding in findings) else 1


def _infer(options: argparse.Namespace) -> int:
    from skerry_edge.client import answer_all
    from skerry_edge.config import Folders

    given, out = options.batch
    show = lambda done: print(f"\r{done} answered", end="", file=sys.stderr, flush=True)  # noqa: E731
    count = answer_all(Folders(options.folder), options.model, given, out, show, options.size)
    print(f"\n{count} answers in {out}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skerry-agent",
        description="One device of a Skerry fleet: takes in signed models, answers with them, reports home sealed.",
        epilog="exit codes: 0 done, 1 failed or refused, 2 wrong usage",
    )
    parser.add_argument("--version", action="version", version=f"skerry-agent {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_enroll(commands)
    run = _command(commands, "run", _run, "run the agent until SIGTERM or Ctrl-C", "skerry-agent run ./pump-7")
    run.description = (
        "Takes in updates, serves the Open Inference Protocol on 127.0.0.1 and DIR/run/agent.sock, reports."
    )
    _add_infer(commands)
    for name, command, text in (
        ("status", _status, "what is installed and what happened last; works offline and without the daemon"),
        (
            "doctor",
            _doctor,
            "check this machine: board, profile, model, certificate, clock, disk, cloud; 1 if one fails",
        ),
    ):
        _command(commands, name, command, text, f"skerry-agent {name} --json ./pump-7").add_argument(
            "--json", action="store_true", help="machine-readable"
        )
    return parser


def _add_enroll(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    example = "skerry-agent enroll --cloud https://cloud:8443 --token skerry-… --name pump-7 ./pump-7"
    enroll = _command(commands, "enroll", _enroll, "make this machine a device of a fleet, once", example)
    enroll.add_argument("--cloud", required=True, metavar="URL", help="address of skerry-cloud, https://HOST:PORT")
    enroll.add_argument("--token", required=True, help="what `skerry device add NAME` printed; works once")
    enroll.add_argument("--name", required=True, help="the name that the token was made for")
    enroll.add_argument("--profile", default="", help="the announced one unless given; auto: what this board is")
    enroll.add_argument(
        "--pseudonym-key", type=Path, metavar="FILE",
        help="32 random bytes that devices share, so that a person has one pseudonym on all; else each makes its own",
    )  # fmt: skip


def _add_infer(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    example = "skerry-agent infer --batch ./pictures ./answers ./pump-7"
    text = "answer many inputs with a model of the device; goes on where an interrupted run was"
    infer = _command(commands, "infer", _infer, text, example)
    infer.add_argument(
        "--batch", required=True, nargs=2, type=Path, metavar=("IN", "OUT"),
        help="IN: a folder of .npy files, one example each, or an Arrow IPC file; OUT: a folder for .npz files",
    )  # fmt: skip
    infer.add_argument("--model", default="", metavar="NAME", help="which one, where the device has several")
    infer.add_argument("--size", type=int, default=32, help="examples a run and a file, default 32")


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, command: object, text: str, example: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text, epilog=f"example: {example}")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=FOLDER, metavar="DIR", help=f"the device's folder, default {FOLDER}"
    )
    parser.set_defaults(command=command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
