"""Several real nodes on this machine, in one herd over real TLS, with engines of a fixed pace."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.parts.herds import PACED
from tests.cli.program import until
from tests.faults.node_process import Faulty, stopped

PACE = {"load_s": 0.2, "step_s": 0.1, "token_s": 0.01}
CHAT = {"kind": "chat", "model": "herd-tiny-chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 20}
IMAGE = {"kind": "image", "model": "herd-tiny-image", "prompt": "a circle", "width": 64, "height": 64, "steps": 20}


class Mac(Faulty):
    """One node. `pace` of its engines as in benchmarks/parts/paced/engine.py; `through` puts its commands into another
    network."""

    through: tuple[str, ...] = ()

    def __init__(self, home: Path, name: str, pace: dict[str, float], **variables: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        usual = {"HERD_NODE_NAME": name, "HERD_PEER_BIND": "127.0.0.1", "HERD_PEER_PORT": "0", "HERD_BONJOUR": "false"}
        super().__init__(home, **(usual | variables))
        self.name = name
        self._pace = home / "pace.json"
        self._pace.write_text(json.dumps(PACE | pace))

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """`up` with paced engines; other commands as they are."""
        if words[:1] != ("up",):
            return super().start(*words, **options)
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        command = [*self.through, sys.executable, str(PACED), str(self._pace), *words]
        return subprocess.Popen(command, text=True, env=self.env, start_new_session=True, **options)

    def post(self, path: str, body: object = None) -> Any:
        """The answer to a question with the node's token; an error is an AssertionError with its words."""
        response = self.ask("POST", path, body)
        text = response.read()
        assert response.status < 400, text
        return json.loads(text)

    @property
    def id(self) -> str:
        record = self.record
        assert record is not None
        return str(record["node_id"])

    def meets(self, *others: Mac) -> bool:
        """Whether all are online as seen from here, whatever their names."""
        there = {node["node_id"]: node["status"] for node in self.get("/herd/api/status")["nodes"]}
        return all(there.get(other.id) == "online" for other in others)

    def states(self) -> dict[str, dict[str, Any]]:
        """All nodes by name, as this one knows them."""
        return {node["name"]: node for node in self.get("/herd/api/status")["nodes"]}

    def stop_and_cont(self) -> contextlib.AbstractContextManager[None]:
        """The whole Mac stands still in the block: the node and its engines."""
        return stopped(*(process.pid for process in self.processes()))

    def quick(self, **pace: float) -> None:
        """Another pace, for engines that start from now on."""
        self._pace.write_text(json.dumps(PACE | pace))

    def busy(self) -> int:
        """How many attempts run or wait here."""
        mine = self.get("/herd/api/status")["nodes"][0]
        return int(mine["running"]) + int(mine["queued"])

    def sees(self, *others: Mac, status: str = "online") -> bool:
        states = self.states()
        return all(states.get(other.name, {}).get("status") == status for other in others)


@contextlib.contextmanager
def macs(
    folder: Path,
    *paces: dict[str, float],
    variables: dict[str, str] | None = None,
    each: dict[int, dict[str, str]] | None = None,
) -> Iterator[list[Mac]]:
    """A herd of as many nodes as there are paces, each knowing all others. In the end none of its processes is left.
    `variables` are for all, `each` for single ones by number."""
    herd = [
        Mac(folder / f"mac{i}", f"mac{i}", pace, **((variables or {}) | (each or {}).get(i, {})))
        for i, pace in enumerate(paces)
    ]
    try:
        with ThreadPoolExecutor(2) as pool:  # on two cores, more at once would only make each later
            list(pool.map(lambda mac: mac.up(), herd))
        join(*herd)
        yield herd
    finally:
        for mac in herd:
            mac.leave()
            mac.end()
            if mac.node is not None:
                mac.node.communicate()


def join(first: Mac, *others: Mac) -> None:
    """One after the other into the herd of the first; returns when each knows all."""
    for other in others:
        other.post("/herd/api/herd/join", {"code": first.post("/herd/api/herd/invite")["code"]})
    everyone = [first, *others]
    until(lambda: all(mac.meets(*(other for other in everyone if other is not mac)) for mac in everyone))


def load(*herd: Mac) -> None:
    """The image model is loaded on each, and all know."""
    at_once(*(lambda mac=mac: mac.post(f"/api/models/{IMAGE['model']}/load") for mac in herd))
    until(lambda: all(_loaded(mac, *herd) for mac in herd))


def warm(*herd: Mac, steps: int = 4) -> None:
    """The image model is loaded on each, and each, none of which has drawn before, has learned how long an image
    takes: better from more `steps`, where the machine is busy."""
    load(*herd)
    for mac in herd:
        assert mac.over(mac.submit(IMAGE | {"steps": steps})).attempts[-1].node == mac.name


def _loaded(mac: Mac, *others: Mac) -> bool:
    states = mac.states()
    return all(
        any(model["loaded"] for model in states[other.name]["models"] if model["name"] == IMAGE["model"])
        for other in others
    )


def all_over(mac: Mac, job_ids: list[str], limit_s: float = 120) -> list[Any]:
    """The jobs, once each has its outcome."""
    return [mac.over(job_id, limit_s) for job_id in job_ids]


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """All calls at the same time; what each returned."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]
