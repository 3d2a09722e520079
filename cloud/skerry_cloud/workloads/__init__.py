"""The problems that Skerry learns: ours and yours are found the same way, by ``load``."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from skerry_cloud.examples import Examples
from skerry_cloud.workloads.workload import RESIDUAL, Workload, check
from skerry_shared import plugins
from skerry_shared.errors import ConfigError, NotFoundError

GROUP = "skerry.workloads"

__all__ = ["GROUP", "RESIDUAL", "Examples", "Workload", "load"]


def load(name: str, folder: Path, returned: bool = False) -> Workload:
    """The workload of this entry point, or of ``path/to/file.py:Class`` relative to ``folder``.

    ``returned``: to learn from data of which devices sent some, see ``Workload.sees``.

    Raises NotFoundError if there is none of this name, ConfigError if what is there is not a complete workload.
    """
    cls = _from_file(name, folder) if ".py" in name else plugins.load(GROUP, name)
    if not (isinstance(cls, type) and issubclass(cls, Workload)):
        raise ConfigError(f"workload {name!r}: not a subclass of skerry_cloud.workloads.Workload")
    check(cls)
    workload = cls()
    workload.returned = returned
    return workload


def _from_file(name: str, folder: Path) -> object:
    file, _, attribute = name.partition(":")
    path = (folder / file).resolve()
    if not attribute:
        raise ConfigError(f"workload {name!r}: say which class, as in '{file}:MyWorkload'")
    if not path.is_file():
        raise NotFoundError(f"workload {name!r}: no file {path}")
    module = _run(path)
    if not hasattr(module, attribute):
        raise NotFoundError(f"workload {name!r}: {path.name} has no class {attribute!r}")
    return getattr(module, attribute)


def _run(path: Path) -> ModuleType:
    """Import the file under a name of its own; it is run again each time, so that an edit counts."""
    spec = importlib.util.spec_from_file_location(f"skerry_workload_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"workload {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # it is the user's code: whatever it raises is theirs to read
        raise ConfigError(f"workload {path}: {type(error).__name__}: {error}") from error
    return module
