"""A .tflite file that came as it is, and stays so."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from skerry_cloud.passes import Form, Material
from skerry_shared.files import write_durably


@dataclass(frozen=True)
class Keep:
    """Changes nothing."""

    name: ClassVar[str] = "keep"
    takes: ClassVar[Form] = "tflite"
    gives: ClassVar[Form] = "tflite"

    def __call__(self, source: Path, target: Path, material: Material) -> None:  # noqa: ARG002
        """Copy."""
        write_durably(target, source.read_bytes())
