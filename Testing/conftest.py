"""For all tests: the same examples in every run, and no time limit that a busy machine would break."""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
