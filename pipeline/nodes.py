"""The machines whose ranks train together, without torch: which one this is, and where all of them meet."""

from __future__ import annotations

import socket
from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """One of several machines whose ranks train together."""

    number: int
    """From 0 to count - 1."""
    count: int
    host: str
    """Address of node 0."""
    port: int
    """Port on node 0, where its launcher holds the store."""


def reserve(host: str) -> socket.socket:
    """Return a socket that is bound to a free port of `host`, so that no other process gets the port meanwhile."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.bind((host, 0))
    return listener
