"""Settings of the property tests: the first call of a kernel compiles it, so single examples have no time limit."""

import os

from hypothesis import settings

# Continuous integration visits the same examples each time; everybody else looks for new ones.
settings.register_profile("protocols", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("protocols")
