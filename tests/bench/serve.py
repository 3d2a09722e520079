"""Local inference in process, by socket, by gRPC, each against a floor measured in the same run; swap under load.

    scripts/bench serve [--quick] [--peers] [--no-install]

One core for the servers, one for the clients, one model (a CNN of about 100,000 parameters, one example a request).
Each case is timed in short rounds that alternate with its floor. A ratio is the median of the rounds' ratios, so that a
busy machine troubles it little; [low high] are their quartiles. Where it may, the run asks the kernel to prefer it to
other sessions. The agent runs from an installation of skerry[edge] of its own, byte-compiled as pip leaves it.
"""

import argparse
import gc
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort

from serving import device, peers, stages
from serving.device import Device
from serving.gateway import Gateway
from serving.handlers import Handlers
from serving.load import (
    CLIENT,
    SERVER,
    Call,
    Paced,
    Rounds,
    Times,
    alternating,
    at_rate,
    favoured,
    memory_mb,
    on,
    p,
    paced,
    throughput,
    timed,
)
from skerry_edge import Client, SocketClient
from skerry_edge.config import AgentConfig
from skerry_edge.update.state import StateFile
from skerry_edge.upkeep import TIDY_S
from skerry_proto.v1 import inference_pb2 as pb
from skerry_shared import identity
from skerry_shared.states import Update

ROOT = Path(__file__).parents[2]
METHOD = "/inference.GRPCInferenceService/ModelInfer"
PARTS = ["mqtt", "grpc"]  # transports that the agent is to load, though nothing answers on the first
CLIENTS, STARTS, SWAPS = 8, 5, 6
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

    def rounds(self, case: str, found: Rounds) -> None:
        self.row(case, found.p(50), found.p(99), f"p99.9 {found.p(99.9):.0f}")

    def figure(self, key: str, value: float | None, note: str = "") -> None:
        self.figures[key] = None if value is None else round(value, 3)
        print(f"{'  → ' + key:<44} {'unknown' if value is None else f'{value:.3f}':>9}   {note}", flush=True)

    def spread(self, key: str, values: Sequence[float] | Times, note: str = "") -> None:
        """The median of the rounds."""
        low, middle, high = np.percentile(values, [25, 50, 75])
        self.figure(key, float(middle), f"[{low:.3f} {high:.3f}] of {len(values)}  {note}")


def main() -> None:
    options = _options()
    os.sched_setaffinity(0, {CLIENT})
    results, scale = Results(), 0.1 if options.quick else 1.0
    with tempfile.TemporaryDirectory(prefix="skerry-") as folder, favoured() as alone:
        print(f"preferred to other sessions: {'yes' if alone else 'no, the kernel refused'}")
        python = None if options.no_install else installed(results)
        print(f"{'case':<44} {'p50 µs':>9} {'p99 µs':>9}")
        made = device.make(Path(folder, "d"))
        in_process(results, made, scale)
        with agent(results, Path(folder, "agent"), python) as (served, process, gateway):
            memory(results, process, "agent_idle_mb", "no request yet, start-up's memory given back")
            sockets(results, served, _bare(made), scale)
            over_rest(results, served, scale)
            with program(Path(folder, "minimal.sock"), "minimal.py", made.model) as address:
                over_grpc(results, served, address, scale)
                staged(results, served, made, address, Path(folder), scale)
            inside_grpc(results, made, scale)
            weighed(results, served, process, scale)
            results.figure("agent_pss_mb", memory_mb(process.pid, "Pss"), "shared pages counted in shares")
            swap(results, served, gateway, 2 if options.quick else SWAPS)
            loaded(served)
            memory(results, process, "agent_swapped_mb", "the same after the swaps, the predecessor still warm")
            growth(results, served, scale)
        results.figures["peers"] = peers.run(results.row, made.model, scale) if options.peers else {}
    verdict(results)
    print(json.dumps(results.figures))


def in_process(results: Results, made: Device, scale: float) -> None:
    """Client.predict against session.run: back to back, and at 100 requests a second, where caches are cold."""
    bare, inputs = _bare(made), {device.INPUT: device.images(1)}
    with Client(made.folders.root) as client:
        predict = lambda: client.predict(inputs)  # noqa: E731
        floor, ours = alternating([bare, predict], rounds=int(200 * scale), size=500)
        results.rounds("session.run", floor)
        results.rounds("Client.predict, observed", ours)
        results.spread("inprocess_over_us_p50", ours.each(50) - floor.each(50))
        results.spread("inprocess_p99_ratio", ours.each(99) / floor.each(99))
        cold = [[at_rate(call, 100, 2) for call in (bare, predict)] for _ in range(int(10 * scale))]
        floor, ours = (Rounds(np.array([took[:150] for took in column])) for column in zip(*cold, strict=True))
        results.rounds("session.run, 100 a second", floor)
        results.rounds("Client.predict, 100 a second", ours)
        results.spread("inprocess_over_us_p50_100hz", ours.each(50) - floor.each(50))
        results.spread("inprocess_p99_ratio_100hz", ours.each(99) / floor.each(99))


def growth(results: Results, served: Device, scale: float) -> None:
    """Memory of 1,000,000 predictions in process, with the agent there that takes the reports.

    They come after the first window of time, with which the code and the buffers come that pack and send one.
    """
    inputs, part = {device.INPUT: device.images(1)}, 50_000
    with Client(served.folders.root) as client:
        predict = lambda: client.predict(inputs)  # noqa: E731
        until = time.monotonic() + (AgentConfig.window_s + 5) * scale
        while time.monotonic() < until:
            timed(predict, part)
        before = _settled_mb()
        for _ in range(int(1_000_000 * scale) // part):
            timed(predict, part)
        results.figure("inprocess_growth_mb", _settled_mb() - before, "after 1,000,000 calls")


def _settled_mb() -> float:
    gc.collect()
    return memory_mb()


def sockets(results: Results, served: Device, bare: Call, scale: float) -> None:
    floor, ours = alternating([bare, _by_socket(served)], rounds=int(50 * scale), size=200)
    results.rounds("SocketClient.predict", ours)
    results.spread("socket_p50_ratio", ours.each(50) / floor.each(50), f"session.run {floor.p(50):.1f}")
    rate = throughput(lambda: _by_socket(served), CLIENTS, 3 * scale)
    results.figure("socket_throughput", rate, f"requests/s, {CLIENTS} clients")


def over_rest(results: Results, served: Device, scale: float) -> None:
    """Raw HTTP with the binary tensor extension both ways."""
    times = timed(_by_rest(served), max(100, int(4000 * scale)))
    results.row("agent, Open Inference Protocol by REST", p(times, 50), p(times, 99))
    rate = throughput(lambda: _by_rest(served), CLIENTS, 3 * scale)
    results.figure("rest_throughput", rate, f"requests/s, {CLIENTS} clients")


def over_grpc(results: Results, served: Device, floor: str, scale: float) -> None:
    """The agent against a server that does the same run and nothing else; both on Unix sockets."""
    addresses = [floor, f"unix:{served.folders.socket}"]
    plain, ours = alternating([_stub(address) for address in addresses], rounds=int(50 * scale), size=100)
    results.rounds("minimal grpcio server", plain)
    results.rounds("agent, Open Inference Protocol by gRPC", ours)
    results.spread("grpc_p50_ratio", ours.each(50) / plain.each(50))
    rates = [
        [throughput(lambda: _stub(address), CLIENTS, 2) for address in addresses]  # noqa: B023
        for _ in range(max(2, int(30 * scale)))
    ]
    least, most = (median(column) for column in zip(*rates, strict=True))
    note = f"{most:.0f} of {least:.0f} requests/s, {CLIENTS} clients"
    results.spread("grpc_throughput_ratio", [ours / plain for plain, ours in rates], note)


def staged(results: Results, served: Device, made: Device, floor: str, folder: Path, scale: float) -> None:
    """Where the requests a second go: from the minimal server to the agent, in the same rounds."""
    with ExitStack() as stack:
        bundle = made.workload.root / "a"
        addresses = {
            stage: stack.enter_context(program(folder / f"{stage}.sock", "stages.py", stage, bundle))
            for stage in stages.STAGES
        }
        addresses["agent"] = f"unix:{served.folders.socket}"
        ratios: dict[str, list[float]] = {stage: [] for stage in addresses}
        for _ in range(max(2, int(10 * scale))):
            least = throughput(lambda: _stub(floor), CLIENTS, 1)
            for stage, address in addresses.items():
                ratios[stage].append(throughput(lambda: _stub(address), CLIENTS, 1) / least)  # noqa: B023
    for stage, found in ratios.items():
        results.spread(f"grpc_throughput_ratio_{stage}", found)


def inside_grpc(results: Results, made: Device, scale: float) -> None:
    """Where the time of a call goes that gRPC itself does not take."""
    handlers = Handlers(made)
    floor, ours = alternating([handlers.floor, handlers.ours], rounds=int(50 * scale), size=500)
    results.rounds("minimal server's handler, in process", floor)
    results.rounds("agent's handler, in process", ours)
    note = ", ".join(f"{name} {spent:.1f}" for name, spent in handlers.steps())
    results.spread("grpc_handler_over_us", ours.each(50) - floor.each(50), f"µs; on average: {note}")


def loaded(served: Device) -> None:
    """Load by all ways in, for there is none of which the agent may have given back the code before it is weighed."""
    for make in (_by_socket, _by_rest, lambda served: _stub(f"unix:{served.folders.socket}")):
        throughput(lambda: make(served), CLIENTS, 1, 0)  # noqa: B023


def weighed(results: Results, served: Device, process: "subprocess.Popen[bytes]", scale: float) -> None:
    """After load by all ways, again and again: what goes home once a minute, and tidying up, change it meanwhile."""
    found = list[float]()
    for _ in range(max(2, int(20 * scale))):
        loaded(served)
        found.append(memory_mb(process.pid))
    results.spread("agent_rss_mb", found, f"ORT, gRPC, MQTT, one model; at most {max(found):.0f}")


def memory(results: Results, process: "subprocess.Popen[bytes]", key: str, note: str) -> None:
    results.figure(key, memory_mb(process.pid), note)


def swap(results: Results, served: Device, gateway: Gateway, swaps: int) -> None:
    """New releases are probed in a child, switched to and proven while 500 requests a second come.

    Each swap, from the assignment to half a second after the first answer of the new release, is compared with the
    seconds before it.
    """
    inputs, stop, found = {device.INPUT: device.images(1)}, threading.Event(), list[Paced]()
    with SocketClient(served.folders.frames) as client:
        last = [1]
        ask = lambda: last.append(client.predict(inputs).release)  # noqa: E731
        asking = threading.Thread(target=lambda: found.append(paced(ask, 500, stop)))
        asking.start()
        try:
            spans = [_swap(served, gateway, release, last) for release in range(2, 2 + swaps)]
        finally:
            stop.set()
            asking.join()
    (times,) = found
    steady = [times.between(before, start) for before, start, _ in spans]
    during = [times.between(start, end) for _, start, end in spans]
    seconds = median(end - start for _, start, end in spans)
    for case, parts in (("500 a second, steady", steady), (f"500 a second, swap ({seconds:.1f} s)", during)):
        p50, p99 = (median([p(part, percent) for part in parts]) for percent in (50, 99))
        results.row(case, p50, p99, f"max {max(part.max() for part in parts):.0f}")
    results.figure("swap_failed", times.failed, f"of {len(times.took)} requests, {swaps} swaps")
    results.spread("swap_p99_ratio", [p(b, 99) / p(a, 99) for a, b in zip(steady, during, strict=True)])


def _swap(served: Device, gateway: Gateway, release: int, last: Sequence[int]) -> tuple[float, float, float]:
    """When its steady time began, when it was assigned, and when it was over."""
    assignment = served.assignment(release)
    before = time.monotonic() + 0.5
    time.sleep(3.5)
    start = time.monotonic()
    gateway.assign(assignment)
    _until(lambda: last[-1] == release)
    end = time.monotonic() + 0.5
    _until(lambda: StateFile(served.workload.update).load().state is Update.HEALTHY)
    time.sleep(max(0.0, end - time.monotonic()))
    return before, start, end


def _until(true: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(0.02)


@contextmanager
def agent(
    results: Results, folder: Path, python: Path | None
) -> Iterator[tuple[Device, "subprocess.Popen[bytes]", Gateway]]:
    """A whole agent on the server's core: its folder, its process, its cloud."""
    authority = identity.Authority.new("bench", device.now())
    gateway = Gateway(authority)
    settings = (
        f'gateway = "127.0.0.1:{gateway.port}"\nmqtt = "127.0.0.1:9"\ntransports = {json.dumps(PARTS)}\n'
        "[health]\nproving_answers = 20\n"
    )
    served = device.make(folder, settings, authority)
    with _process(served, python):
        pass  # the first start also tries the model in a child process; a device is started more often than that
    firsts = list[float]()
    for _ in range(STARTS):
        with _process(served, python) as (_, first_s):
            firsts.append(first_s)
    results.spread("first_answer_s", firsts, "from exec, with nothing in place but files")
    with _process(served, python) as (process, _):
        memory(results, process, "agent_started_mb", "at its first answer")
        time.sleep(TIDY_S + 2)
        yield served, process, gateway
    gateway.close()


@contextmanager
def _process(served: Device, python: Path | None) -> Iterator[tuple["subprocess.Popen[bytes]", float]]:
    folder = served.folders.root
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment |= {} if python else {"PYTHONPYCACHEPREFIX": str(ROOT / "build/bench/bytecode")}
    with (folder / "log").open("ab") as log:
        command = [*on(SERVER), str(python or sys.executable), "-m", "skerry_edge.cli", "run", str(folder)]
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd="/")
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
def program(socket: Path, name: str, *arguments: object) -> Iterator[str]:
    """A server of ``serving`` on a Unix socket; its address."""
    address, file = f"unix:{socket}", Path(__file__).with_name("serving") / name
    process = subprocess.Popen([*on(SERVER), sys.executable, str(file), *map(str, arguments), address])
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(20)
        yield address
    finally:
        process.kill()
        process.wait()


def _by_socket(served: Device) -> Call:
    client, inputs = SocketClient(served.folders.frames), {device.INPUT: device.images(1)}
    return lambda: client.predict(inputs)


def _by_rest(served: Device) -> Call:
    raw = device.images(1).tobytes()
    tensor = {"name": device.INPUT, "datatype": "UINT8", "shape": [1, 1, device.SIZE, device.SIZE]}
    described = tensor | {"parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"parameters": {"binary_data_output": True}, "inputs": [described]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    connection = http.client.HTTPConnection("127.0.0.1", int(served.folders.http_port.read_text()), timeout=10)

    def call() -> None:
        connection.request("POST", "/v2/models/bench/infer", head + raw, headers)
        reply = connection.getresponse()
        if reply.status != 200:
            raise RuntimeError(f"{reply.status}: {reply.read()[:200]!r}")
        reply.read()

    return call


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


def installed(results: Results) -> Path | None:
    """A fresh environment with skerry[edge]: what it takes, and its Python; None if it cannot be made."""
    folder = ROOT / "build/bench/edge"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    empty, python = _size(folder), folder / "bin/python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", f"{ROOT}[edge]"]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        print("install_mb: skipped, pip could not install skerry[edge] here", file=sys.stderr)
        return None
    everything, bytecode = _size(folder), _size(folder, "*.pyc")
    results.figure("install_mb", (everything - bytecode - empty) / 1e6, "skerry[edge] as it is in the wheels")
    results.figure("install_compiled_mb", (everything - empty) / 1e6, "with the bytecode that pip makes of it")
    return python


def _size(folder: Path, pattern: str = "*") -> int:
    return sum(file.lstat().st_size for file in folder.rglob(pattern) if file.is_file() and not file.is_symlink())


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
    parser.add_argument(
        "--no-install", action="store_true", help="run the agent from this environment; its size stays unknown"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
