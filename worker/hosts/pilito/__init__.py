"""Pilito, a Django application: its row says who answers, its cache and its channel layer are Django's.

Its facts, and how it moves from its in-line action to this service and back: docs/hosts/pilito.md.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from worker.effects import Effect
from worker.hosts import Host, bundled
from worker.hosts.pilito import cache, flag, record
from worker.hosts.pilito.channel import notify
from worker.hosts.pilito.checks import checks
from worker.hosts.pilito.proof import leave, left
from worker.hosts.pilito.rows import PilitoRows
from worker.redirects import State

_FLAG = Effect("cache", cache.write, cache.drifted)


def _tell(states: Sequence[State]) -> Mapping[str, Exception]:
    """The browsers of our own gateway, then those of the host."""
    return {**bundled.publish(states), **notify(states, proof_of_host=left)}


HOST = Host(
    cache=_FLAG,
    websocket=Effect("websocket", _tell),
    record=Effect("record", record.save, record.drifted),
    rows=PilitoRows(),
    control=record.control,
    cache_key=cache.flag_key,
    cache_value=flag.shown,
    cache_is_ours=False,
    shown_record=record.shown,
    tend=partial(record.tend, flag=_FLAG),
    noticed=record.noticed,
    on_apply=leave,
    checks=checks,
    # The story that the in-line action told in its log.
    marks={
        "redirect_applied": "✓",
        "effect_written": "✓",
        "effect_retry": "⚠",
        "ring_dropped": "⚠",
        "effect_dead": "❌",
        "redirect_rejected": "❌",
        "redirect_complete": "✅ [Redirect Complete]",
    },
)
