"""What the device and the cloud both mean: releases, telemetry, identity, sealing, states, errors."""

__version__ = "0.1.0"
