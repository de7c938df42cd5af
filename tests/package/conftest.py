"""Where this layer cannot run, its tests fail and say why."""

from __future__ import annotations

import pytest

from support.clean import why_not


@pytest.fixture(scope="session", autouse=True)
def _possible() -> None:
    if reason := why_not():
        pytest.fail(f"no packages are tried here: {reason}")
