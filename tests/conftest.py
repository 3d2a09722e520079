from hypothesis import HealthCheck, settings

# A busy machine is no fault of the code: timings are measured by scripts/bench, and never asserted.
settings.register_profile("skerry", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("skerry")
