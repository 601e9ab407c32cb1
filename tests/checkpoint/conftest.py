"""The tests of this folder run in one thread, as those of the networks."""

from tests.modeling.conftest import one_thread_unless_slow  # noqa: F401
