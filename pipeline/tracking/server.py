"""Whether W&B's server can be used now: one question to it, which has PROBE seconds. The key is read, never kept."""

from __future__ import annotations

import base64
import json
import netrc
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

PROBE = 5  # seconds


def address() -> str:
    """The server that W&B is told of in the environment, or its own."""
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/")


def refusal() -> str | None:
    """Why the server cannot be used now, None when it can; an answer takes at most PROBE seconds."""
    server = address()
    secret = _key(server)
    if secret is None:
        return "no key in WANDB_API_KEY or netrc"
    found: list[str | None] = []
    # A thread: looking up a name has no time limit of its own, nor has a server that answers a byte a second.
    asker = threading.Thread(target=lambda: found.append(_ask(server, secret)), daemon=True)
    asker.start()
    asker.join(PROBE)
    return found[0] if found else f"{server} gave no answer in {PROBE} s"


def _key(server: str) -> str | None:
    """The key in the environment, or in netrc; it is never stored."""
    if os.environ.get("WANDB_API_KEY"):
        return os.environ["WANDB_API_KEY"]
    try:
        known = netrc.netrc(Path(os.environ.get("NETRC") or "~/.netrc").expanduser())
    except (OSError, netrc.NetrcParseError):
        return None
    entry = known.authenticators(urllib.parse.urlsplit(server).netloc)
    return entry[2] if entry else None


def _ask(server: str, secret: str) -> str | None:
    request = urllib.request.Request(  # noqa: S310
        f"{server}/graphql",
        data=json.dumps({"query": "query Viewer { viewer { id } }"}).encode(),
        headers={
            "Content-Type": "application/json",
            "Authorization": "Basic " + base64.b64encode(f"api:{secret}".encode()).decode(),
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=PROBE) as answer:  # noqa: S310
            viewer = (json.load(answer).get("data") or {}).get("viewer")
    except urllib.error.HTTPError as error:
        return f"{server} refused the key (401)" if error.code == 401 else f"{server} answered {error.code}"
    except TimeoutError:
        return f"{server} gave no answer in {PROBE} s"
    except OSError as error:
        return f"no connection to {server} ({getattr(error, 'reason', error)})"
    except (ValueError, AttributeError):
        return f"{server} gave an answer that is not W&B's"
    return None if viewer else f"{server} does not know the key"
