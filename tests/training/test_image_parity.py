"""What training computes in JAX is what mflux computes."""

from __future__ import annotations

import pytest


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_jax_and_mflux_agree() -> None:
    pytest.importorskip("jax", reason="needs the group `training`")
    from training.image import parity

    found = parity.differences()
    assert found
    assert {part: far for part, far in found.items() if far > parity.BOUND} == {}
