"""A link between two network interfaces that takes its time and loses packets: `slow_link.py A B DELAY_S LOSS SEED`.

Linux's own means for this (netem) is often not there. Frames are read from either side and written to the other.
"""

from __future__ import annotations

import array
import fcntl
import heapq
import random
import select
import socket
import struct
import sys
import time

SIOCETHTOOL = 0x8946
NO_OFFLOADS = (0x17, 0x1F, 0x24, 0x2C)
"""ETHTOOL_STXCSUM, _STSO, _SGSO, _SGRO: frames must have their checksums, and be no longer than the link takes."""


def plain(interface: str) -> None:
    """Switch off what the kernel leaves to the card, which is not there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command in NO_OFFLOADS:
            value = array.array("B", struct.pack("II", command, 0))
            fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("16sP", interface.encode(), value.buffer_info()[0]))


def main(one: str, other: str, delay_s: float, loss: float, seed: int) -> None:
    chance = random.Random(seed)
    sides = []
    for name in (one, other):
        side = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        side.bind((name, 0))
        sides.append(side)
    waiting: list[tuple[float, int, int, bytes]] = []
    number = 0
    print("ready", flush=True)
    while True:
        pause_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for side in select.select(sides, [], [], pause_s)[0]:
            frame, address = side.recvfrom(65536)
            if address[2] != socket.PACKET_OUTGOING and chance.random() >= loss:
                number += 1
                heapq.heappush(waiting, (time.monotonic() + delay_s, number, 1 - sides.index(side), frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, to, frame = heapq.heappop(waiting)
            sides[to].send(frame)


if __name__ == "__main__":
    if sys.argv[1] == "plain":
        plain(sys.argv[2])
    else:
        main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
