"""Decompression with an end: a few kilobytes that stand for gigabytes must not take the worker's memory."""

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any

from kombu import compression

# Bytes of a body, before it is decoded: 160,000 small events, and what RabbitMQ lets pass. Decoding takes a multiple of
# it in memory, and all other messages wait meanwhile.
LARGEST = 16 * 1024 * 1024
_BOUNDED: dict[str, Callable[[], Any]] = {
    "application/x-gzip": zlib.decompressobj,
    "application/x-bz2": bz2.BZ2Decompressor,
    "application/x-lzma": lzma.LZMADecompressor,
}


def bound_decompression(largest: int) -> None:
    """Let kombu unpack at most `largest` bytes of any message of this process, and by no other method than these."""
    for method in compression.encoders():
        encoder = compression.get_encoder(method)[0]  # type: ignore[index]  # the stub forgets the name
        compression.register(encoder, _bounded(_BOUNDED.get(method), largest), method)


def _bounded(decompressor: Callable[[], Any] | None, largest: int) -> Callable[[bytes], bytes]:
    def decompress(body: bytes) -> bytes:
        if decompressor is None:
            raise ValueError("compression should be gzip, bzip2 or lzma")
        unpacking = decompressor()
        unpacked: bytes = unpacking.decompress(body, largest)
        if not unpacking.eof:
            raise ValueError(f"the body should be whole and at most {largest} bytes unpacked")
        return unpacked

    return decompress
