"""From an unpacked bundle to a loaded model, by the runtime that its manifest names."""

from skerry_shared import plugins
from skerry_shared.bundle import Bundle
from skerry_shared.errors import ModelError, UsageError
from skerry_shared.ports.runtime import Model, Runtime

GROUP = "skerry.runtimes"


def load_model(bundle: Bundle, threads: int) -> Model:
    """Load the bundle's model. Raises ModelError if its runtime is missing or refuses it."""
    try:
        runtime: Runtime = plugins.load(GROUP, bundle.manifest.target.runtime)()
    except UsageError as error:
        raise ModelError(str(error)) from None
    return runtime.load(bundle.model, threads)
