"""The herd of `demo`: two nodes with TLS between them, of which one is killed in the middle of an image."""

from __future__ import annotations

import os
import signal
import threading
import time

from herd_mcp.cli.client import NodeClient
from herd_mcp.cli.temporary import TemporaryNode
from herd_mcp.jobs import ENDED, ErrorCode, Failed, HerdError, ImageRequest, Job

NAMES = ("mac-1", "mac-2")
LEASE_S = 4
"""How long mac-1 waits for mac-2 before the job runs elsewhere; the usual 15 s would be long to watch."""
ALONE = {"HERD_PEER_BIND": "127.0.0.1", "HERD_PEER_PORT": "0", "HERD_BONJOUR": "false", "HERD_LEASE_S": str(LEASE_S)}
"""Nothing listens off loopback, nothing is announced."""
VARIABLES = tuple({"HERD_NODE_NAME": name, **ALONE} for name in NAMES)
MEET_S, KILL_S = 30.0, 90.0
LOOK_S = 0.03
MIDDLE = 2
"""The step after which the node is killed."""


def client_of(node: TemporaryNode) -> NodeClient:
    return NodeClient(node.port, node.token)


def warm(nodes: list[NodeClient], model: str) -> None:
    """Each draws once for itself, before it has a herd: its model is loaded then, and it knows how fast it is. Raises
    HerdError."""
    failed: list[HerdError] = []

    def draw(node: NodeClient) -> None:
        try:
            for event in node.run(ImageRequest(model=model, prompt="a black square", steps=2, seed=1)):
                if isinstance(event, Failed):
                    raise HerdError.of(event.error)
        except HerdError as error:
            failed.append(error)

    threads = [threading.Thread(target=draw, args=(node,), daemon=True) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def join(first: NodeClient, second: NodeClient) -> str:
    """The second into the herd of the first, as `invite` and `join` do it; the code, when both know each other.
    Raises HerdError."""
    code = first.invite().code
    second.join(code)
    deadline = time.monotonic() + MEET_S
    while not all(_all_online(node) for node in (first, second)):
        if time.monotonic() > deadline:
            raise HerdError(ErrorCode.TIMEOUT, "The two nodes did not meet.", "`herd-mcp doctor` looks at the machine.")
        time.sleep(LOOK_S)
    return code


def _all_online(node: NodeClient) -> bool:
    states = node.nodes().nodes
    return len(states) == len(NAMES) and all(state.status == "online" for state in states)


def kill_in_the_middle(first: NodeClient, second: TemporaryNode, earlier: set[str]) -> Job:
    """SIGKILL the second node while it draws an image that was asked of the first, which is not one of the `earlier`
    jobs; the job as it was then. Raises HerdError where none comes to its middle there."""
    deadline = time.monotonic() + KILL_S
    while time.monotonic() < deadline:
        jobs = [job for job in first.jobs(limit=10) if job.id not in earlier]
        there = [job for job in jobs if job.attempts and job.attempts[-1].node == NAMES[1] and job.status not in ENDED]
        for job in there:
            if job.progress is not None and job.progress.step >= MIDDLE:
                os.kill(second.process.pid, signal.SIGKILL)
                return job
        time.sleep(LOOK_S)
    raise HerdError(ErrorCode.TIMEOUT, "No image was drawn on the second node.", "This machine is very busy.")
