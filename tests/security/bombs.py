"""Bytes that make a file when they are unpickled, or read as YAML that makes objects, and how they are dressed."""

import bz2
import json
import pickle
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.poison import headers

TYPES = (
    "application/x-python-serialize",
    "application/x-yaml",
    "application/x-msgpack",
    "application/data",
    "application/json",
    "pickle",
    "text/plain",
)
ENCODINGS = ("binary", "utf-8", "pickle", "latin-1")
PACKED: dict[str | None, Callable[[bytes], bytes]] = {None: bytes, "gzip": zlib.compress, "bzip2": bz2.compress}


class _Bomb:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def pickled(path: Path, protocol: int = 2) -> bytes:
    """A call of Celery's whose argument makes the file at `path`."""
    return pickle.dumps(([_Bomb(path)], {}, {}), protocol)


def yaml(path: Path) -> bytes:
    made = f'!!python/object/apply:pathlib.Path ["{path}"]'
    return f"[[!!python/object/apply:pathlib.Path.touch [{made}]], {{}}, {{}}]".encode()


@dataclass(frozen=True)
class Bomb:
    """A message: its body, and what it says of itself."""

    body: bytes
    content_type: str
    content_encoding: str = "binary"
    headers: dict[str, Any] = field(default_factory=dict)


def bombs(path: Path, prefix: str) -> Iterator[Bomb]:
    """In every dress; each with an id of its own, which begins with `prefix`."""
    number = 0
    for kind in TYPES:
        bodies = [yaml(path)] if "yaml" in kind else [pickled(path), pickled(path, 5)]
        for body in bodies:
            for encoding in ENCODINGS:
                for method, pack in PACKED.items():
                    number += 1
                    told = {"compression": method} if method else {}
                    yield Bomb(pack(body), kind, encoding, headers(f"{prefix}-{number}", serializer="pickle") | told)


def tagged(path: Path) -> bytes:
    """JSON that names a type, as kombu's JSON does, and a pickle as its value."""
    value = {"__type__": "pickle", "__value__": pickled(path, 0).decode("latin-1"), "py/reduce": str(path)}
    return json.dumps([[value], {}, {}]).encode()
