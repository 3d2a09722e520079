"""The agent's handler in a server by itself, built up in stages: ``stages.py STAGE BUNDLE SOCKET``.

``protocol`` checks the request against the manifest, schedules it, names the reply and counts it for the statistics
extension; ``guard`` also notes the time and the answer to be judged; ``recorder`` also counts and samples the answer.
What the whole agent takes beside that is what else its process does.
"""

import sys
import threading
import time
from pathlib import Path

from skerry_edge.adapters.runtime_onnx import OnnxRuntime
from skerry_edge.config import Protect
from skerry_edge.infer.engine import Active, Engine
from skerry_edge.infer.scheduler import Limits
from skerry_edge.observe.recorder import Recorder
from skerry_edge.observe.span import Span
from skerry_edge.protect.guard import Guard, Guarded
from skerry_edge.serve import listen, oip
from skerry_edge.serve.catalog import Catalog
from skerry_shared import bundle

STAGES = PROTOCOL, GUARD, RECORDER = ("protocol", "guard", "recorder")
RUNS, WINDOW_S, RATE, TICK_S = 8, 60.0, 0.05, 1.0  # as an agent has them for so quick a model


def active(stage: str, unpacked: bundle.Bundle) -> Active:
    manifest, model = unpacked.manifest, OnnxRuntime().load(unpacked.model, 1)
    if stage == PROTOCOL:
        return Active(manifest, model, lambda *_: None, limits=Limits(RUNS))
    guarded = Guarded(model, Guard(len(manifest.labels), Protect()))
    if stage == GUARD:
        return Active(manifest, guarded, lambda *_: None, limits=Limits(RUNS))
    recorder = Recorder(manifest, lambda *_: None, Span(WINDOW_S), RATE)
    threading.Thread(target=_ticks, args=(recorder,), daemon=True).start()
    return Active(manifest, guarded, recorder.observe, limits=Limits(RUNS))


def _ticks(recorder: Recorder) -> None:
    while True:
        time.sleep(TICK_S)
        recorder.tick()


def main(stage: str, folder: str, address: str) -> None:
    engine = Engine()
    engine.swap(active(stage, bundle.load(Path(folder))))
    server, _ = listen.start_grpc(address, None, oip.handlers(Catalog(engine)))
    server.wait_for_termination()


if __name__ == "__main__":
    main(*sys.argv[1:])
