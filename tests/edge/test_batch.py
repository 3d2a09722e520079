import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nanoarrow as na
import numpy as np
import pytest
from nanoarrow.ipc import StreamWriter

from skerry_edge.infer import batch
from skerry_shared.errors import ConfigError, InputError, StateError
from skerry_shared.ports.runtime import Tensors
from skerry_shared.release import ANY, Manifest, TensorSpec
from skerry_shared.testing.examples import MANIFEST


class Sum:
    """The sum of each picture; remembers how many it saw."""

    def __init__(self) -> None:
        self.seen = 0

    def run(self, inputs: Tensors) -> Tensors:
        self.seen += len(inputs["picture"])
        return {"sum": inputs["picture"].astype(np.int64).sum((1, 2))}


PICTURES = np.arange(7 * 4, dtype=np.uint8).reshape(7, 2, 2)
SUMS = PICTURES.sum((1, 2)).tolist()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    given = tmp_path / "in"
    given.mkdir()
    for i, picture in enumerate(PICTURES):
        np.save(given / f"{i:02}.npy", picture)
    return given


def answered(out: Path) -> list[tuple[str, int]]:
    parts = [np.load(part) for part in sorted(out.glob("*.npz"))]
    return [(str(name), int(value)) for part in parts for name, value in zip(part["name"], part["sum"], strict=True)]


def run(given: Path, out: Path, model: Any, size: int = 3, manifest: Manifest = MANIFEST) -> int:
    return batch.answer(batch.source(given, manifest), model, manifest, out, lambda _: None, size)


def test_a_folder(folder: Path, tmp_path: Path) -> None:
    told: list[int] = []
    out = tmp_path / "out"
    count = batch.answer(batch.source(folder, MANIFEST), Sum(), MANIFEST, out, told.append, 3)
    assert (count, told) == (7, [3, 6, 7])
    assert answered(out) == [(f"{i:02}.npy", total) for i, total in enumerate(SUMS)]


def test_it_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    class Dies(Sum):
        def run(self, inputs: Tensors) -> Tensors:
            if self.seen >= 3:
                raise KeyboardInterrupt
            return super().run(inputs)

    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "out", Dies())
    (folder / "00.npy").write_bytes(b"not looked at again")
    model = Sum()
    assert run(folder, tmp_path / "out", model) == 7
    assert model.seen == 4 and [total for _, total in answered(tmp_path / "out")] == SUMS


def test_answers_of_two_models_are_not_mixed(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out", Sum())
    with pytest.raises(StateError, match="another run"):
        run(folder, tmp_path / "out", Sum(), manifest=replace(MANIFEST, release=99))


def arrow(column: Any, name: str = "picture", rows: int = 7) -> bytes:
    out = io.BytesIO()
    with StreamWriter.from_writable(out) as writer:
        writer.write_stream(na.c_array_from_buffers(na.struct({name: column.schema}), rows, [None], children=[column]))
    return out.getvalue()


def raw_column() -> Any:
    return na.c_array([picture.tobytes() for picture in PICTURES], na.binary())


@pytest.mark.parametrize("before", [b"", batch.ARROW_FILE])
def test_an_arrow_file_of_bytes(before: bytes, tmp_path: Path) -> None:
    (tmp_path / "in.arrow").write_bytes(before + arrow(raw_column()))
    assert run(tmp_path / "in.arrow", tmp_path / "out", Sum()) == 7
    assert answered(tmp_path / "out") == [(f"{i}", total) for i, total in enumerate(SUMS)]


def test_an_arrow_file_of_numbers(tmp_path: Path) -> None:
    values, offsets = PICTURES.ravel(), np.arange(0, 29, 4, dtype=np.int32)
    child = na.c_array_from_buffers(na.uint8(), 28, [None, values])
    column = na.c_array_from_buffers(na.list_(na.uint8()), 7, [None, offsets], children=[child])
    (tmp_path / "in.arrow").write_bytes(arrow(column))
    run(tmp_path / "in.arrow", tmp_path / "out", Sum())
    assert [total for _, total in answered(tmp_path / "out")] == SUMS


def test_any_iterator(tmp_path: Path) -> None:
    items = (batch.Item(f"n{i}", lambda i=i: {"picture": PICTURES[i]}) for i in range(7))  # type: ignore[misc]
    assert batch.answer(items, Sum(), MANIFEST, tmp_path / "out", lambda _: None) == 7
    assert answered(tmp_path / "out")[6] == ("n6", SUMS[6])


def spoil_dtype(folder: Path) -> Path:
    np.save(folder / "03.npy", PICTURES[3].astype(np.float32))
    return folder


def spoil_bytes(folder: Path) -> Path:
    (folder / "03.npy").write_bytes(b"nothing")
    return folder


def column_of_another_name(folder: Path) -> Path:
    (folder / "x.arrow").write_bytes(arrow(raw_column(), "painting"))
    return folder / "x.arrow"


def short_rows(folder: Path) -> Path:
    (folder / "x.arrow").write_bytes(arrow(na.c_array([b"abc"] * 7, na.binary())))
    return folder / "x.arrow"


def nonsense(folder: Path) -> Path:
    (folder / "x.arrow").write_bytes(b"nonsense" * 10)
    return folder / "x.arrow"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_dtype, r"03\.npy: input 'picture' is float32 \[2, 2\], expected uint8 \[2, 2\]"),
        (spoil_bytes, r"03\.npy: not a \.npy file"),
        (column_of_another_name, "no column 'picture'; it has painting"),
        (short_rows, "row 0: input 'picture' is no uint8"),
        (nonsense, "not an Arrow IPC file"),
    ],
)
def test_what_is_wrong_is_named(spoil: Callable[[Path], Path], message: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run(spoil(folder), tmp_path / "out", Sum())


def test_nothing_there_and_too_many_inputs(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        run(tmp_path / "nothing", tmp_path / "out", Sum())
    two = replace(MANIFEST, inputs=(*MANIFEST.inputs, TensorSpec("more", "uint8", (ANY,))))
    with pytest.raises(InputError, match="takes 2 inputs"):
        run(folder, tmp_path / "out", Sum(), manifest=two)
