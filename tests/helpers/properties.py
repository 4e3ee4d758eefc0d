"""How many inputs of any kind a test draws: few, and the same ones every time; more by LEFUSION_EXAMPLES."""

import os

from hypothesis import HealthCheck, settings

SLOW = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much)


def drawn(few: int = 60) -> settings:
    """A decorator. Whoever asks for more examples (LEFUSION_EXAMPLES=5000) gets new ones, too."""
    more = os.environ.get("LEFUSION_EXAMPLES")
    return settings(
        max_examples=int(more or few),
        derandomize=not more,
        deadline=None,
        database=None,
        suppress_health_check=SLOW,
    )
