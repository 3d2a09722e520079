"""Plain data that is valid, for tests."""

from skerry_shared.release import Channel, Lineage, Manifest, Measured, Target, TensorSpec

MANIFEST = Manifest(
    workload="fashion", release=3, owner="o@example", labels=("a", "b"),
    inputs=(TensorSpec("picture", "uint8", (-1, 2, 2)),), outputs=(TensorSpec("scores", "float32", (-1, 2)),),
    target=Target("generic-x86-64", "x86_64", "onnxruntime", "int8", 1 << 20), measured=Measured(5, 0.25, 0.9, 1e-3),
    lineage=Lineage(1, "d1", 2, "abc", 2), baseline=(Channel("brightness", (0.25, 0.5), (3, 2, 1, 0)),),
    tolerance=0.05, model_file="model.onnx",
)  # fmt: skip
