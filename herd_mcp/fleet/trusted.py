"""What the fleet needs to know of trust: which herd this is, who was met, who is shut out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol


class Met(Protocol):
    """A member that was met before."""

    @property
    def addresses(self) -> Iterable[str]: ...


class Trusted(Protocol):
    """Kept over restarts, where the disk takes it."""

    @property
    def herd_id(self) -> str: ...
    @property
    def revoked(self) -> frozenset[str]: ...
    @property
    def known(self) -> Mapping[str, Met]: ...
    def revoke(self, node_ids: Iterable[str], /) -> bool: ...
    def remember(self, node_id: str, name: str, addresses: Iterable[str], /) -> object: ...
