"""Private. The names that the plugin and its report share; light, as the plugin."""

from __future__ import annotations

import pytest

EVERYWHERE = "cancel_everywhere"
"""The mark of tests that are cancelled all over."""

IGNORE = "aioaudit_ignore"
"""The mark of tests that accept findings."""


class FindingWarning(pytest.PytestWarning):
    """Something went wrong with a cancellation in a test (``--aioaudit-findings=warn``)."""
