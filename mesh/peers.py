"""From where a call comes."""

from __future__ import annotations

from typing import Any, Final

_SPIFFE: Final = "peer_spiffe_id"
_GATEWAY: Final = b"/gateway"
HEADER: Final = "x-poi-client"
"""In which the gateway says what address it sees; it writes over what clients say there."""
_MOST: Final = 500


def peer_of(context: Any) -> str:
    """The address at the other end; of a call that came through the gateway, the one that the gateway saw as well.

    Others may write what they like into their headers: only who shows the gateway's certificate is believed.
    """
    peer = str(context.peer())
    shown = context.auth_context().get(_SPIFFE)
    if shown and shown[0].endswith(_GATEWAY):
        for key, value in context.invocation_metadata() or ():
            if key == HEADER:
                return f"{value} via {peer}"[:_MOST]
    return peer[:_MOST]
