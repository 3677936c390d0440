"""Every frame of a turn is accounted for: it came once to each socket that it was for, and to no other; how fast."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.checks import CheckFailed
from benchmarks.figures import percentile
from benchmarks.sockets.listeners import Heard
from benchmarks.sockets.load import Load, Update


def account(
    load: Load, updates: Sequence[Update], sent: Sequence[float], heard: Heard, may_lose: bool
) -> dict[str, Any]:
    """Frames that came and that were lost, sockets that were closed, and the percentiles 0 to 100 of publish -> frame,
    in milliseconds, over all that came. Raises CheckFailed for what may not be.
    """
    wanted = Counter((socket, str(n)) for n, update in enumerate(updates) for socket in load.listeners(update.owner))
    came = Counter((socket, event_id) for socket, event_id, _ in heard.frames)
    lost, surplus = (wanted - came).total(), (came - wanted).total()
    if surplus or not came or (not may_lose and (lost or heard.closed)):
        closed = f"{len(heard.closed)} sockets were closed {heard.closed[:1]}"
        raise CheckFailed(f"{wanted.total()} frames: {lost} are missing, {surplus} are too many, {closed}")
    took = sorted(1000 * (moment - sent[int(event_id)]) for _, event_id, moment in heard.frames)
    if took[0] < 0:
        raise CheckFailed("a frame came before it was sent: the clocks of the processes differ")
    return {
        "frames": len(took),
        "lost": lost,
        "closed": len(heard.closed),
        "percentiles_ms": [percentile(took, share / 100) for share in range(101)],
    }
