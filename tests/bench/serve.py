"""Local inference in process, by socket, by gRPC, each against a floor measured in the same run; swap under load.

    scripts/bench serve [--quick] [--peers] [--no-install]

One core for the servers, one for the clients, one model (a CNN of about 100,000 parameters, one example a request).
Each case is timed in turns with its floor, so that a busy machine troubles both; ratios are worth more than figures.
"""

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import onnxruntime as ort

from serving import device, peers
from serving.device import Device
from serving.gateway import Gateway
from serving.load import CLIENT, SERVER, Call, alternating, at_rate, memory_mb, on, p, paced, throughput, timed
from skerry_edge import Client, SocketClient
from skerry_proto.v1 import inference_pb2 as pb
from skerry_shared import identity

ROOT = Path(__file__).parents[2]
METHOD = "/inference.GRPCInferenceService/ModelInfer"
PARTS = ["mqtt", "grpc"]  # transports that the agent is to load, though nothing answers on the first
CLIENTS = 8
TARGETS = {  # of issue 3; "at most" but for the throughput
    "inprocess_over_us_p50": 15, "inprocess_p99_ratio": 1.2, "socket_p50_ratio": 5, "grpc_p50_ratio": 1.15,
    "grpc_throughput_ratio": 0.9, "agent_rss_mb": 85, "first_answer_s": 0.6, "install_mb": 200, "swap_failed": 0,
    "swap_p99_ratio": 1.5,
}  # fmt: skip


@dataclass
class Results:
    """What is printed: lines as they come, and the figures."""

    figures: dict[str, Any] = field(default_factory=dict)

    def row(self, case: str, p50: float, p99: float, note: str = "") -> None:
        print(f"{case:<44} {p50:>9.1f} {p99:>9.1f}   {note}", flush=True)

    def figure(self, key: str, value: float | None, note: str = "") -> None:
        self.figures[key] = None if value is None else round(value, 3)
        print(f"{'  → ' + key:<44} {'unknown' if value is None else f'{value:.3f}':>9}   {note}", flush=True)


def main() -> None:
    options = _options()
    os.sched_setaffinity(0, {CLIENT})
    results, scale = Results(), 0.1 if options.quick else 1.0
    print(f"{'case':<44} {'p50 µs':>9} {'p99 µs':>9}")
    with tempfile.TemporaryDirectory(prefix="skerry-") as folder:
        made = device.make(Path(folder, "d"))
        in_process(results, made, scale)
        with agent(Path(folder, "agent")) as (served, process, gateway, first_s):
            floor = _bare(made)
            results.figure("first_answer_s", first_s)
            sockets(results, served, floor, scale)
            with minimal_server(made.model, Path(folder, "minimal.sock")) as address:
                over_grpc(results, served, address, scale)
            results.figure("agent_rss_mb", memory_mb(process.pid), "with ORT, gRPC, MQTT, one model, 8 clients seen")
            swap(results, served, gateway, scale)
        results.figure("install_mb", None if options.no_install else install_mb())
        results.figures["peers"] = peers.run(results.row, made.model, scale) if options.peers else {}
    verdict(results)
    print(json.dumps(results.figures))


def in_process(results: Results, made: Device, scale: float) -> None:
    """Client.predict against session.run: back to back, and at 100 requests a second, where caches are cold."""
    bare, inputs = _bare(made), {device.INPUT: device.images(1)}
    with Client(made.folders.root) as client:
        predict = lambda: client.predict(inputs)  # noqa: E731
        floor, ours = alternating([bare, predict], rounds=int(100 * scale), size=400)
        results.row("session.run", p(floor, 50), p(floor, 99), f"p99.9 {p(floor, 99.9):.0f}")
        results.row("Client.predict, observed", p(ours, 50), p(ours, 99), f"p99.9 {p(ours, 99.9):.0f}")
        results.figure("inprocess_over_us_p50", p(ours, 50) - p(floor, 50))
        results.figure("inprocess_p99_ratio", p(ours, 99) / p(floor, 99))
        cold, ours = (at_rate(call, 100, 10 * scale) for call in (bare, predict))
        results.row("session.run, 100 a second", p(cold, 50), p(cold, 99))
        results.row("Client.predict, 100 a second", p(ours, 50), p(ours, 99))
        results.figure("inprocess_over_us_p50_100hz", p(ours, 50) - p(cold, 50))
        results.figure("inprocess_growth_mb", _growth(predict, int(1_000_000 * scale)), "after 1,000,000 calls")


def _growth(call: Call, count: int) -> float:
    timed(call, 20_000)
    gc.collect()
    before = memory_mb()
    timed_in_parts = max(1, count // 100_000)
    for _ in range(timed_in_parts):
        timed(call, count // timed_in_parts)
    gc.collect()
    return memory_mb() - before


def sockets(results: Results, served: Device, bare: Call, scale: float) -> None:
    inputs = {device.INPUT: device.images(1)}
    with SocketClient(served.folders.frames) as client:
        floor, ours = alternating([bare, lambda: client.predict(inputs)], rounds=int(20 * scale) or 1, size=250)
        results.row("SocketClient.predict", p(ours, 50), p(ours, 99))
        results.figure("socket_p50_ratio", p(ours, 50) / p(floor, 50), f"session.run {p(floor, 50):.1f}")

    def another() -> Call:
        connected = SocketClient(served.folders.frames)
        return lambda: connected.predict(inputs)

    rate = throughput(another, CLIENTS, 3 * scale)
    results.figure("socket_throughput", rate, f"requests/s, {CLIENTS} clients")


def over_grpc(results: Results, served: Device, floor: str, scale: float) -> None:
    """The agent against a server that does the same run and nothing else; both on Unix sockets."""
    addresses = [floor, f"unix:{served.folders.socket}"]
    calls = [_stub(address) for address in addresses]
    plain, ours = alternating(calls, rounds=int(20 * scale) or 1, size=200)
    results.row("minimal grpcio server", p(plain, 50), p(plain, 99))
    results.row("agent, Open Inference Protocol by gRPC", p(ours, 50), p(ours, 99))
    results.figure("grpc_p50_ratio", p(ours, 50) / p(plain, 50))
    rates = [[throughput(lambda: _stub(address), CLIENTS, 2 * scale) for address in addresses] for _ in range(3)]  # noqa: B023
    best = [max(column) for column in zip(*rates, strict=True)]
    results.figure("grpc_throughput_ratio", best[1] / best[0], f"{best[1]:.0f} of {best[0]:.0f} requests/s")


def swap(results: Results, served: Device, gateway: Gateway, scale: float) -> None:
    """A new release is probed in a child, switched to and proven while 500 requests a second come."""
    inputs, stop, found = {device.INPUT: device.images(1)}, threading.Event(), list[Any]()
    steady_s = max(2.0, 10 * scale)
    with SocketClient(served.folders.frames) as client:
        releases = list[int]()
        ask = lambda: releases.append(client.predict(inputs).release)  # noqa: E731
        asking = threading.Thread(target=lambda: found.append(paced(ask, 500, stop)))
        asking.start()
        time.sleep(steady_s)
        assignment = served.assignment(2)
        start = time.monotonic()
        gateway.assign(assignment)
        while releases[-1] != 2 and time.monotonic() < start + 30:
            time.sleep(0.05)
        end = time.monotonic() + 0.5
        time.sleep(0.6)
        stop.set()
        asking.join()
    times = found[0]
    steady, during = times.between(0, start - 0.5), times.between(start, end)
    results.row("500 a second, steady", p(steady, 50), p(steady, 99))
    results.row(f"500 a second, swap ({end - start:.1f} s)", p(during, 50), p(during, 99), f"max {during.max():.0f}")
    results.figure("swap_failed", times.failed if releases[-1] == 2 else None, f"of {len(times.took)} requests")
    results.figure("swap_p99_ratio", p(during, 99) / p(steady, 99))


@contextmanager
def agent(folder: Path) -> Iterator[tuple[Device, "subprocess.Popen[bytes]", Gateway, float]]:
    """A whole agent on the server's core: its folder, its process, its cloud, seconds from exec to the first answer."""
    authority = identity.Authority.new("bench", device.now())
    gateway = Gateway(authority)
    settings = (
        f'gateway = "127.0.0.1:{gateway.port}"\nmqtt = "127.0.0.1:9"\ntransports = {json.dumps(PARTS)}\n'
        "[health]\nproving_answers = 20\n"
    )
    served = device.make(folder, settings, authority)
    with _process(served):
        pass  # the first start also tries the model in a child process; a device is started more often than that
    with _process(served) as (process, first_s):
        yield served, process, gateway, first_s
    gateway.close()


@contextmanager
def _process(served: Device) -> Iterator[tuple["subprocess.Popen[bytes]", float]]:
    folder, start = served.folders.root, time.monotonic()
    with (folder / "log").open("ab") as log:
        command = [sys.executable, "-m", "skerry_edge.cli", "run", str(folder)]
        process = subprocess.Popen(command, stdout=log, stderr=log, **on(SERVER))
    try:
        _first_answer(served)
        yield process, time.monotonic() - start
    finally:
        process.terminate()
        process.wait(20)


def _first_answer(served: Device) -> None:
    with SocketClient(served.folders.frames) as client:
        until = time.monotonic() + 30
        while True:
            try:
                client.predict({device.INPUT: device.images(1)})
            except Exception:  # not there yet
                if time.monotonic() > until:
                    raise
                time.sleep(0.005)
            else:
                return


@contextmanager
def minimal_server(model: Path, path: Path) -> Iterator[str]:
    program = Path(__file__).with_name("serving") / "minimal.py"
    process = subprocess.Popen([sys.executable, str(program), str(model), f"unix:{path}"], **on(SERVER))
    try:
        with grpc.insecure_channel(f"unix:{path}") as channel:
            grpc.channel_ready_future(channel).result(20)
        yield f"unix:{path}"
    finally:
        process.kill()
        process.wait()


def _stub(address: str) -> Call:
    """Sends the same bytes again and again: the client is to cost as little as it can."""
    tensor = pb.ModelInferRequest.InferInputTensor(
        name=device.INPUT, datatype="UINT8", shape=[1, 1, device.SIZE, device.SIZE]
    )
    raw = device.images(1).tobytes()
    request = pb.ModelInferRequest(model_name="bench", inputs=[tensor], raw_input_contents=[raw]).SerializeToString()
    channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
    method = channel.unary_unary(METHOD, bytes, bytes)
    return lambda: method(request)


def _bare(made: Device) -> Call:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(made.model), options, providers=["CPUExecutionProvider"])
    names, inputs = [output.name for output in session.get_outputs()], {device.INPUT: device.images(1)}
    return lambda: session.run(names, inputs)


def install_mb() -> float | None:
    """Of a fresh environment with skerry[edge], less what an empty one takes; None if it cannot be made."""
    folder = ROOT / "build/bench/edge"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    empty, pip = _size(folder), [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", "-q"]
    if subprocess.run([*pip, "--no-compile", f"{ROOT}[edge]"], check=False, capture_output=True).returncode:
        print("install_mb: skipped, pip could not install skerry[edge] here", file=sys.stderr)
        return None
    return (_size(folder) - empty) / 1e6


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def verdict(results: Results) -> None:
    print()
    for key, target in TARGETS.items():
        value = results.figures.get(key)
        better = value is not None and (value >= target if key == "grpc_throughput_ratio" else value <= target)
        print(
            f"{'reached' if better else 'MISSED ' if value is not None else 'unknown':<8} {key:<26} {value} ({target})"
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench serve", description="Local inference side by side.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests: a smoke test, no measurement")
    parser.add_argument("--peers", action="store_true", help="also KServe, MLServer, LitServe, BentoML (installs them)")
    parser.add_argument("--no-install", action="store_true", help="do not measure what an installation takes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
