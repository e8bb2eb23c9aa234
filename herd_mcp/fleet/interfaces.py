"""Under which addresses other Macs may reach this one."""

from __future__ import annotations

import ipaddress
import socket

import psutil

from herd_mcp.fleet.places import address_of, merged


def own_addresses(bind: str) -> tuple[str, ...]:
    """IP addresses that reach a socket bound to `bind`, the one that this Mac itself prefers first, those that an
    interface gave itself (169.254, a cable between two Macs) last. Loopback only where it is bound there, or has no
    network. A name is looked up."""
    bound = ipaddress.ip_address(_look_up(bind))
    if not bound.is_unspecified:
        return (str(bound),)
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found = []
    for name, addresses in psutil.net_if_addrs().items():
        for entry in addresses if name in up else ():
            if entry.family == socket.AF_INET or (entry.family == socket.AF_INET6 and bound.version == 6):
                address = ipaddress.ip_address(entry.address.split("%")[0])
                if not (address.is_loopback or (address.is_link_local and address.version == 6)):
                    found.append(address)
    preferred = _preferred()
    found.sort(key=lambda address: (str(address) != preferred, address.is_link_local, address.version))
    return tuple(map(str, found)) or ("127.0.0.1",)


def with_port(bind: str, port: int) -> tuple[str, ...]:
    """As `own_addresses`, each as `host:port`."""
    return merged(address_of(host, port) for host in own_addresses(bind))


def _look_up(host: str) -> str:
    return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0]).split("%")[0]


def _preferred() -> str:
    """The address that packets into the network leave from. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # an address for documentation, which nobody has
        except OSError:
            return ""
        return str(sock.getsockname()[0])
