"""The whole mesh: real servers, a real broker and a real Redis, killed and refused and looked at from outside."""

import pytest

pytest.register_assert_rewrite("tests.e2e.story")  # so that what is missing or doubled is shown
