"""Sockets of a real gateway that speak no WebSocket, byte by byte; and others beside them, who notice nothing."""

import socket
import struct
from contextlib import ExitStack, suppress
from random import Random

import pytest
from websockets.frames import Frame, Opcode

from tests.eventually import eventually
from tests.fuzz import spelling
from tests.fuzz.rounds import Rounds, numbered, trying
from tests.fuzz.test_http import GROWTH, fed
from tests.fuzz.watch import Watched
from tests.integration.gateways import Gateway
from tests.integration.test_gateway_abuse import Witness, witness
from tests.integration.tokens import token
from tests.service import Service

SOCKETS = 60
# Of how many frames a socket says at most.
FRAMES = 8
VERSIONS = [b" HTTP/1.1", b" HTTP/1.0"]
# Lengths that a frame says it has: the last three are more than a client may say, or than there can be.
LENGTHS = [0, 1, 125, 126, 127, 128, 65_535, 65_536, 2**31, 2**63 - 1, 2**64 - 1]
CODES = [0, 999, 1000, 1001, 1004, 1005, 1006, 1007, 1015, 2999, 3000, 4999, 5000, 65_535]
HANDSHAKE = {
    b"Host": [b"127.0.0.1"] * 9 + [b"evil.example", b"\xff", b""],
    b"Connection": [b"Upgrade"] * 9 + [b"close", b"keep-alive, Upgrade", b""],
    b"Upgrade": [b"websocket"] * 9 + [b"h2c", b"WEBSOCKET", b"websocket, x", b"\xff"],
    b"Sec-WebSocket-Version": [b"13"] * 9 + [b"8", b"99", b"x", b""],
    b"Sec-WebSocket-Key": [b"dGhlIHNhbXBsZSBub25jZQ=="] * 9 + [b"x", b"", b"AAAA", b"\xff" * 20, b"=" * 24],
}
MORE = [b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=99", b"Origin: http://evil.example"]
MORE += [b"Sec-WebSocket-Extensions: \xff", b"Sec-WebSocket-Protocol: ,,", b"Sec-WebSocket-Protocol: bearer.\xff", b"x"]
MORE += [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Sec-WebSocket-Key: again", b"Cookie: " + b"x" * 60_000]


@pytest.mark.slow
def test_websocket(rounds: Rounds, service: Service) -> None:
    """Whatever some say, others get their frames; nothing of it is an error of ours, and nothing of it stays."""
    sizes: list[int] = []
    with fed(service) as (web, gateway), witness(service, web) as other:
        rounds.run(lambda random: spoken(web, gateway, other, sizes, random), most=3)
    assert sizes[-1] < sizes[min(3, len(sizes) - 1)] + GROWTH, sizes


def spoken(web: Gateway, gateway: Watched, other: Witness, sizes: list[int], random: Random) -> int:
    files, said = gateway.files(), []
    shown = [token("7", lifetime=600, jti=str(number)).encode() for number in range(6)]  # 20 sockets each
    with ExitStack() as held:
        for told in numbered(random, SOCKETS):
            one = held.enter_context(socket.create_connection(("127.0.0.1", web.port), timeout=10))
            hands = handshake(random, random.choice(shown))
            frames = b"".join(frame(random, told) for _ in range(random.randrange(FRAMES)))
            said.append(hands + frames)
            say(one, hands, frames, random)
            if random.random() < 0.2:
                one.close()
        with trying(said):
            assert other.sees_the_next(within=60)
            assert web.get("/healthz").status == 200
            gateway.is_as_before("Traceback", "data transfer failed")
    eventually(lambda: gateway.files() <= files + 5, within=60)
    sizes.append(gateway.memory())
    return SOCKETS


def say(one: socket.socket, hands: bytes, frames: bytes, random: Random) -> None:
    """The frames in one piece or in two. Nobody reads what is answered to them.

    Most wait for the answer to the handshake, as RFC 6455 demands: what comes with it uvicorn drops.
    """
    one.settimeout(1)
    cut = random.choice((0, random.randrange(len(frames) + 1)))
    with suppress(OSError):
        one.sendall(hands)
        if random.random() < 0.8 and hands.endswith(b"\r\n\r\n"):
            one.recv(4096)
        one.sendall(frames[:cut])
        one.sendall(frames[cut:])


def handshake(random: Random, shown: bytes) -> bytes:
    """Most often a good one; else hurt, or half of one."""
    good = random.random() < 0.7
    fields = {name: some[0] if good else random.choice(some) for name, some in HANDSHAKE.items()}
    lines = [b"GET /ws HTTP/1.1", *(name + b": " + said for name, said in fields.items())]
    lines += [b"Sec-WebSocket-Protocol: redirect.v1, bearer." + shown] if random.random() < 0.8 else []
    if not good:
        lines[0] = random.choice(
            [lines[0], b"GET /ws?owner_id=%ff HTTP/1.1", b"POST /ws HTTP/1.1", b"GET /ws HTTP/1.0"]
        )
        lines.insert(random.randrange(1, len(lines) + 1), random.choice(MORE))
    raw = b"\r\n".join(lines) + b"\r\n\r\n"
    return raw if good else raw[: random.choice((len(raw), len(raw), random.randrange(len(raw))))]


def frame(random: Random, told: str) -> bytes:
    """A frame as it should be, or one of any opcode, length, mask and flags; or noise."""
    match random.randrange(10):
        case 0:
            return random.randbytes(random.choice((1, 2, 14, 300)))
        case 1 | 6 | 7:
            return Frame(Opcode.TEXT, spelling.body(random, told)[:16_000]).serialize(mask=True)
        case 2:
            return b"".join(Frame(Opcode.PING, b"").serialize(mask=True) for _ in range(500))
        case 3:
            code = struct.pack(">H", random.choice(CODES)) + random.choice((b"", b"\xff\xfe", b"x" * 200))
            return _frame(0x88, code[: random.choice((0, 1, 2, 400))], mask=True)
        case 4:
            parts = [_frame(0x01, b"{"), *(_frame(0x00, b"\xe2\x82") for _ in range(random.randrange(50)))]
            return b"".join([*parts, _frame(random.choice((0x80, 0x81, 0x89)), b"}")])
        case 5:
            return Frame(Opcode.TEXT, b'{"type": "page", "after": "%s"}' % told.encode()).serialize(mask=True)
        case _:
            first = random.choice((0x80, 0x00)) | random.choice((0, 0, 0, 0x10, 0x40, 0x70)) | random.randrange(16)
            return _frame(first, random.randbytes(random.choice((0, 5, 130))), random.random() < 0.8, _length(random))


def _length(random: Random) -> int | None:
    return random.choice(LENGTHS) if random.random() < 0.3 else None


def _frame(first: int, payload: bytes, mask: bool = True, length: int | None = None) -> bytes:
    """`length` is what it says it has. Masked with zeros, which change nothing."""
    size = len(payload) if length is None else length
    bit = 0x80 if mask else 0
    if size < 126:
        head = bytes([first, bit | size])
    elif size < 65_536:
        head = struct.pack(">BBH", first, bit | 126, size)
    else:
        head = struct.pack(">BBQ", first, bit | 127, size)
    return head + (b"\0\0\0\0" if mask else b"") + payload
