"""Faults that give wrong answers without an error, each planted into a copy of a healthy, unpacked bundle.

All were seen in the field or are one slip away: in conversion, quantisation, pre-processing, packaging and kernels.
What a broken runtime or chip would do is built into the graph, which then computes the same wrong answers anywhere.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from silent.healthy import FLOAT, INT8, Healthy
from silent.surgery import Array, Graph
from skerry_shared.bundle import MANIFEST

MODEL = "model.onnx"


@dataclass(frozen=True)
class Fault:
    """What is wrong, the precision of the bundle that it is planted into, and how to change a copy of that."""

    name: str
    precision: str
    plant: Callable[[Path, Healthy], None]


FAULTS: list[Fault] = []
Change = Callable[[Graph], None]


def in_bundle(precision: str) -> Callable[[Callable[[Path, Healthy], None]], None]:
    """Enter a fault that changes any file of the bundle."""

    def enter(plant: Callable[[Path, Healthy], None]) -> None:
        FAULTS.append(Fault(f"{plant.__name__.replace('_', ' ')} ({precision})", precision, plant))

    return enter


def in_model(precision: str) -> Callable[[Change], None]:
    """Enter a fault that changes the model's graph."""

    def enter(change: Change) -> None:
        def plant(folder: Path, _: Healthy) -> None:
            graph = Graph(onnx.load(folder / MODEL))
            change(graph)
            onnx.save(graph.model, folder / MODEL)

        plant.__name__ = change.__name__
        in_bundle(precision)(plant)

    return enter


def weight(graph: Graph, place: int) -> str:
    return str(graph.weighted()[place].input[1])


def bias(graph: Graph, place: int) -> str:
    return str(graph.weighted()[place].input[2])


# Weights


@in_model(FLOAT)
def a_flipped_bit_in_one_weight(graph: Graph) -> None:
    def flip(weights: Array) -> Array:
        flat = weights.reshape(-1)
        flat.view(np.uint32)[np.abs(flat).argmax()] ^= 1 << 23  # the lowest bit of the exponent
        return flat

    graph.change(weight(graph, 2), flip)


@in_model(FLOAT)
def a_layer_of_zeros(graph: Graph) -> None:
    graph.change(weight(graph, 1), np.zeros_like)


@in_model(FLOAT)
def a_dead_filter(graph: Graph) -> None:
    def kill(weights: Array) -> Array:
        weights[np.abs(weights).sum((1, 2, 3)).argmax()] = 0
        return weights

    graph.change(weight(graph, 2), kill)


@in_model(FLOAT)
def a_lost_bias(graph: Graph) -> None:
    graph.change(bias(graph, 1), np.zeros_like)


@in_model(FLOAT)
def weights_cut_to_bfloat16(graph: Graph) -> None:
    for node in graph.weighted():
        graph.change(node.input[1], lambda w: (w.view(np.uint32) & 0xFFFF0000).view(np.float32))


@in_model(FLOAT)
def channel_order_of_a_layer(graph: Graph) -> None:
    graph.change(weight(graph, 1), lambda w: w[:, ::-1])


@in_model(FLOAT)
def channels_last_weights_read_as_channels_first(graph: Graph) -> None:
    graph.change(weight(graph, 2), lambda w: w.transpose(0, 2, 3, 1))


@in_model(FLOAT)
def kernels_turned_as_for_a_true_convolution(graph: Graph) -> None:
    for node in graph.nodes("Conv"):
        graph.change(node.input[1], lambda w: w[:, :, ::-1, ::-1])


@in_bundle(FLOAT)
def a_model_of_another_training(folder: Path, healthy: Healthy) -> None:
    (folder / MODEL).write_bytes(healthy.other.read_bytes())


# What goes in


@in_model(FLOAT)
def normalised_as_for_other_pictures(graph: Graph) -> None:
    for operator, place, value in (("Sub", 0, 0.485), ("Div", 1, 0.229)):
        graph.change(graph.nodes(operator)[place].input[1], lambda _, value=value: value)  # type: ignore[misc]


@in_model(FLOAT)
def not_scaled_to_one(graph: Graph) -> None:
    graph.change(graph.nodes("Div")[0].input[1], np.ones_like)


@in_model(FLOAT)
def a_transposed_picture(graph: Graph) -> None:
    graph.after("picture", "Transpose", perm=[0, 2, 1])


@in_model(FLOAT)
def an_inverted_picture(graph: Graph) -> None:
    graph.after("picture", "BitwiseNot")


@in_model(FLOAT)
def bytes_read_as_signed(graph: Graph) -> None:
    graph.before(graph.nodes("Cast")[0], "Cast", to=onnx.TensorProto.INT8)


@in_model(FLOAT)
def a_picture_one_row_off(graph: Graph) -> None:
    _roll(graph, "picture", axis=1)


# Operators


@in_model(FLOAT)
def the_largest_in_place_of_the_mean(graph: Graph) -> None:
    graph.nodes("ReduceMean")[0].op_type = "ReduceMax"


@in_model(FLOAT)
def a_leaky_rectifier(graph: Graph) -> None:
    graph.nodes("Relu")[1].op_type = "LeakyRelu"


@in_model(FLOAT)
def clipped_activations(graph: Graph) -> None:
    graph.after(graph.nodes("Relu")[2].output[0], "Min", np.float32(1))


@in_model(FLOAT)
def a_lost_shortcut(graph: Graph) -> None:
    add = graph.nodes("Add")[0]
    graph.after(add.input[1], "Mul", np.float32(0))


@in_model(FLOAT)
def no_softmax(graph: Graph) -> None:
    softmax = graph.nodes("Softmax")[0]
    softmax.op_type = "Identity"
    graph.attributes(softmax)


@in_model(FLOAT)
def softmax_over_the_examples(graph: Graph) -> None:
    graph.attributes(graph.nodes("Softmax")[0], axis=0)


@in_model(FLOAT)
def softmax_twice(graph: Graph) -> None:
    graph.before(graph.nodes("Softmax")[0], "Softmax", axis=1)


@in_model(FLOAT)
def dropout_left_on(graph: Graph) -> None:
    features = graph.nodes("Relu")[-1].output[0]
    chance = graph.after(features, "RandomUniformLike", low=0.0, high=1.0)
    kept = graph.after(graph.after(chance, "Greater", np.float32(0.1)), "Cast", to=onnx.TensorProto.FLOAT)
    graph.after(kept, "Mul", features)


@in_model(FLOAT)
def statistics_of_the_batch(graph: Graph) -> None:
    ones = np.ones(len(graph.constant(bias(graph, -2))), np.float32)
    normal = (ones, 0 * ones, 0 * ones, ones)
    graph.after(graph.nodes("Relu")[-1].output[0], "BatchNormalization", *normal, outputs=3, training_mode=1)


# Number formats


@in_model(FLOAT)
def overflow_in_half_precision(graph: Graph) -> None:
    large = graph.after(graph.nodes("Relu")[1].output[0], "Mul", np.float32(1e5))
    half = graph.after(large, "Cast", to=onnx.TensorProto.FLOAT16)
    graph.after(graph.after(half, "Cast", to=onnx.TensorProto.FLOAT), "Mul", np.float32(1e-5))


@in_model(FLOAT)
def a_score_that_is_no_number(graph: Graph) -> None:
    poison = np.zeros((1, 10), np.float32)
    poison[0, 9] = np.nan
    graph.at_end("scores", "Add", poison)


@in_model(INT8)
def a_neighbours_scale(graph: Graph) -> None:
    other = graph.constant(graph.nodes("QuantizeLinear")[3].input[1])
    graph.change(graph.nodes("QuantizeLinear")[2].input[1], lambda _: other)


@in_model(INT8)
def a_scale_off_by_a_tenth(graph: Graph) -> None:
    _slip(graph, 1, lambda scale: scale * np.float32(1.1))


@in_model(INT8)
def a_zero_point_off_by_one(graph: Graph) -> None:
    _slip(graph, 2, lambda zero: zero + np.uint8(1))


@in_model(INT8)
def a_lost_zero_point(graph: Graph) -> None:
    _slip(graph, 2, np.zeros_like)


@in_model(INT8)
def one_scale_for_all_channels(graph: Graph) -> None:
    graph.change(_weights(graph, 2).input[1], lambda scales: scales * 0 + scales.max())


@in_model(INT8)
def saturated_sums(graph: Graph) -> None:
    for quantiser in graph.nodes("QuantizeLinear")[1:]:
        most = graph.constant(quantiser.input[1]) * 128
        graph.before(quantiser, "Min", np.float32(most))


@in_model(INT8)
def calibrated_on_dark_pictures(graph: Graph) -> None:
    for quantiser in graph.nodes("QuantizeLinear"):
        graph.change(quantiser.input[1], lambda scale: scale / 4)


@in_model(INT8)
def a_high_bit_flipped_in_one_weight_of_a_hundred(graph: Graph) -> None:
    def flip(weights: Array) -> Array:
        flat = weights.reshape(-1)
        flat[::100] ^= 0x40
        return flat

    graph.change(_weights(graph, 4).input[0], flip)


@in_model(INT8)
def four_bits_read_where_eight_were_written(graph: Graph) -> None:
    graph.change(_weights(graph, 2).input[0], lambda w: w >> 4 << 4)


@in_model(INT8)
def rounded_down_and_not_to_the_nearest(graph: Graph) -> None:
    for quantiser in graph.nodes("QuantizeLinear"):
        graph.before(quantiser, "Sub", graph.constant(quantiser.input[1]) / np.float32(2))


# What comes out


@in_model(FLOAT)
def swapped_labels(graph: Graph) -> None:
    for name in (weight(graph, -1), bias(graph, -1)):
        graph.change(name, lambda rows: rows[[1, 0, *range(2, len(rows))]])


@in_model(FLOAT)
def swapped_outputs(graph: Graph) -> None:
    for node in graph.model.graph.node:
        node.output[:] = [{"scores": "monitors", "monitors": "scores"}.get(name, name) for name in node.output]


@in_model(FLOAT)
def swapped_monitors(graph: Graph) -> None:
    node = next(node for node in graph.model.graph.node if "monitors" in node.output)
    node.input[0], node.input[1] = node.input[1], node.input[0]


@in_model(FLOAT)
def one_answer_for_the_whole_batch(graph: Graph) -> None:
    logits = graph.nodes("Softmax")[0].input[0]
    first = graph.after(logits, "Gather", np.array([0]), axis=0)
    graph.after(first, "Add", graph.after(logits, "Mul", np.float32(0)))


@in_model(FLOAT)
def answers_moved_by_one_example(graph: Graph) -> None:
    _roll(graph, graph.nodes("Softmax")[0].input[0], axis=0)


# Packaging


@in_bundle(FLOAT)
def stale_golden_outputs(folder: Path, _: Healthy) -> None:
    path = folder / "golden/out/scores.npy"
    np.save(path, np.roll(np.load(path), 1, axis=0))


@in_bundle(FLOAT)
def no_golden_inputs(folder: Path, _: Healthy) -> None:
    (folder / "golden/in/picture.npy").unlink()


@in_bundle(FLOAT)
def a_truncated_model(folder: Path, _: Healthy) -> None:
    content = (folder / MODEL).read_bytes()
    (folder / MODEL).write_bytes(content[: len(content) * 3 // 4])


@in_bundle(FLOAT)
def truncated_external_weights(folder: Path, _: Healthy) -> None:
    weights = _external(folder)
    weights.write_bytes(weights.read_bytes()[:-1000])


@in_bundle(FLOAT)
def external_weights_left_behind(folder: Path, _: Healthy) -> None:
    _external(folder).unlink()


@in_bundle(FLOAT)
def a_runtime_for_other_files(folder: Path, _: Healthy) -> None:
    _tell(folder, lambda manifest: manifest["target"].update(runtime="litert"))


@in_bundle(FLOAT)
def a_label_too_few(folder: Path, _: Healthy) -> None:
    _tell(folder, lambda manifest: manifest["labels"].pop())


def _roll(graph: Graph, tensor: str, axis: int) -> None:
    """The last along an axis comes first."""
    axes, end = np.array([axis]), np.array([np.iinfo(np.int64).max])
    last = graph.insert(tensor, "Slice", np.array([-1]), end, axes)
    others = graph.insert(tensor, "Slice", np.array([0]), np.array([-1]), axes)
    graph.reroute(tensor, graph.insert(last, "Concat", others, axis=axis), but=(last, others))


def _slip(graph: Graph, place: int, new: Callable[[Array], Array]) -> None:
    """What is written with the right scale (1) or zero point (2) is read with another one."""
    written = graph.nodes("QuantizeLinear")[0]
    read = next(node for node in graph.nodes("DequantizeLinear") if node.input[0] == written.output[0])
    read.input[place] = graph.add(new(graph.constant(read.input[place])))


def _weights(graph: Graph, place: int) -> onnx.NodeProto:
    """What dequantises a layer's weights."""
    wanted = weight(graph, place)
    return next(node for node in graph.nodes("DequantizeLinear") if node.output[0] == wanted)


def _external(folder: Path) -> Path:
    model = onnx.load(folder / MODEL)
    onnx.save(model, folder / MODEL, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return folder / "weights.bin"


def _tell(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_bytes())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))
