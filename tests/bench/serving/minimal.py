"""The floor for a gRPC server in Python: parses a request, runs the model, answers. ``minimal.py MODEL SOCKET``"""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort

from skerry_proto.v1 import inference_pb2 as pb


def handler(model: str) -> Callable[..., Any]:
    """From a request to its reply."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def infer(request: Any, _: object = None) -> Any:
        tensor = request.inputs[0]
        array = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(tuple(tensor.shape))
        response = pb.ModelInferResponse(model_name="bench")
        for name, output in zip(names, session.run(names, {tensor.name: array}), strict=True):
            response.outputs.add(name=name, datatype="FP32", shape=output.shape)
            response.raw_output_contents.append(output.tobytes())
        return response

    return infer


def main(model: str, address: str) -> None:
    method = grpc.unary_unary_rpc_method_handler(
        handler(model), pb.ModelInferRequest.FromString, pb.ModelInferResponse.SerializeToString
    )
    server = grpc.server(ThreadPoolExecutor(8))
    service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": method})
    server.add_generic_rpc_handlers([service])
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
