"""The bytes of the AI flag: a pickle, of which only plain dicts are ever read. Pure."""

import pickle
from io import BytesIO
from pickletools import genops
from typing import Any

PROTOCOL = 5
"""What Django 5.1 pickles with, as pickle.HIGHEST_PROTOCOL of Python 3.8 to 3.13."""
LARGEST = 262_144
"""Bytes. A prompt has some thousands; what is larger was not written for a flag."""
MOST_DICTS = 100
"""In one flag: nesting costs stack when it is pickled again."""

# All that pickle uses to write dicts of str, bool, int and None. Reading needs no trust in the rest: no imports, no
# calls, no memo index that makes the C unpickler reserve gigabytes.
_DICTS = {"EMPTY_DICT", "MARK", "SETITEM", "SETITEMS"}
_LEAVES = {"SHORT_BINUNICODE", "BINUNICODE", "NEWTRUE", "NEWFALSE", "NONE", "BININT", "BININT1", "BININT2", "LONG1"}
ADMITTED = _DICTS | _LEAVES | {"PROTO", "FRAME", "MEMOIZE", "BINGET", "LONG_BINGET", "STOP"}


class _Plain(pickle.Unpickler):
    """Behind the check of what is admitted, a second lock. (Persistent ids it refuses by itself.)"""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is not admitted")


def changed(held: bytes | None, ai_enabled: bool) -> bytes:
    """The bytes of `held` with this `ai_enabled`; of `ai_enabled` alone where there is nothing that can be read."""
    return pickle.dumps((_read(held) or {}) | {"ai_enabled": ai_enabled}, PROTOCOL)


def enabled(held: bytes) -> bool | None:
    """What the flag says; None where it says nothing that is plain."""
    said = (_read(held) or {}).get("ai_enabled")
    return said if isinstance(said, bool) else None


def shown(held: bytes) -> dict[Any, Any]:
    """The dict, for people who look. Raises ValueError."""
    if (there := _read(held)) is None:
        raise ValueError(f"no flag that can be read: {held[:100]!r}")
    return there


def _read(held: bytes | None) -> dict[Any, Any] | None:
    """The dict; None where it is absent, too large, or anything but dicts of str, bool, int and None."""
    if held is None or len(held) > LARGEST:
        return None
    if held in _BARE:
        return {"ai_enabled": _BARE[held]}
    try:
        used = [code.name for code, _, _ in genops(held)]
        if not ADMITTED.issuperset(used) or used.count("EMPTY_DICT") > MOST_DICTS:
            return None
        there = _Plain(BytesIO(held)).load()
    except (pickle.UnpicklingError, ValueError, TypeError, LookupError, EOFError):
        return None
    return there if isinstance(there, dict) else None


# Nearly every flag is one of these: found in half a microsecond, where reading takes 12.
_BARE = {changed(None, said): said for said in (True, False)}
