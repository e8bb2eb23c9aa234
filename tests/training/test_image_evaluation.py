"""The built-in image model against its whole held-out list: half an hour on two processor cores."""

from __future__ import annotations

import pytest

from training.image import config
from training.image.evaluate import evaluate, totals


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_held_out_prompts_are_drawn_as_asked() -> None:
    rows, _ = evaluate(config.FOLDER, each=32, workers=1)
    for px, shape in ((64, 0.90), (128, 0.85)):
        overall = totals(rows, px)
        assert overall["foreground"] >= 0.95
        assert overall["background"] >= 0.95
        assert overall["shape"] >= shape
    for row in rows:
        assert row.cases >= 30
        if row.steps != 4:
            assert row.share("all") >= 0.80, row.as_json()
            continue
        for thing in row.right:
            least = 0.80 if row.px == 128 and thing in ("shape", "all") else 0.85
            assert row.share(thing) >= least, row.as_json()
