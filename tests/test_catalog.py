"""The models of the whole herd as rows."""

from __future__ import annotations

from typing import Any

from benchmarks.parts.mesh import state_of
from herd_mcp.catalog import of_herd
from herd_mcp.state import ModelInfo, ModelState


def on_disk(name: str, **update: Any) -> ModelInfo:
    fields = {"kind": "chat", "family": "f", "source": "folder", "path": "/x", "bytes": 5, "complete": True}
    return ModelInfo.model_validate({"name": name, **fields, **update})


def told(name: str, **update: Any) -> ModelState:
    return ModelState.model_validate({"name": name, "kind": "chat", "bytes": 5, **update})


def test_a_model_is_one_row_with_all_that_have_it() -> None:
    here = state_of(1, models=(told("both"),))
    there = state_of(2, models=(told("both", loaded=True), told("theirs", fits=False, reason="it is too large")))
    both, theirs = of_herd([on_disk("both", can_load_now=False, reason="full")], here, [there], {"theirs"})
    assert [(place.node, place.loaded) for place in both.nodes] == [("mac-1", False), ("mac-2", True)]
    assert (both.loaded, both.can_load_now, both.reason, both.default) == (True, True, "", False)
    assert (theirs.source, theirs.path, theirs.default) == ("peer", "", True)
    assert (theirs.can_load_now, theirs.reason) == (False, "mac-2: it is too large")


def test_what_is_not_whole_here_can_be_used_elsewhere() -> None:
    broken = on_disk("both", complete=False, problem="a file is missing")
    (both,) = of_herd([broken], state_of(1), [state_of(2, models=(told("both"),))], ())
    assert [(place.node, place.fits) for place in both.nodes] == [("mac-1", False), ("mac-2", True)]
    assert both.usable
    assert both.can_load_now


def test_models_of_a_node_that_is_offline_are_not_told() -> None:
    assert of_herd([], state_of(1), [state_of(2, status="offline", models=(told("gone"),))], ()) == []
