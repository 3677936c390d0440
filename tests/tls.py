"""A certificate authority of a test's own, and a door that speaks TLS in front of a server that does not."""

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from worker.embedded.processes import free_port

T = TypeVar("T")
# What a PostgreSQL client sends first (https://www.postgresql.org/docs/18/protocol-message-formats.html, SSLRequest).
SSL_REQUEST = bytes.fromhex("0000000804d2162f")
# What a URL says to have its server verified.
DATABASE_SAYS, SAYS = "sslmode=verify-full&sslrootcert={}", "ssl_ca_certs={}&ssl_cert_reqs=required"
OURS, ELSEWHERE = ("127.0.0.1", "localhost"), ("elsewhere.example.com",)


class Authority:
    """An authority whose certificate is the file `ca`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.ca = folder, folder / "ca.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Authority of a test: {folder.name}")])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, 0), critical=True)
        self._write(self.ca, builder.add_extension(usage, critical=True))

    def issue(self, *names: str) -> tuple[Path, Path]:
        """The files of a certificate for these host names and addresses, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        place = self.folder / names[0]
        certificate, secret = place.with_suffix(".crt"), place.with_suffix(".key")
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        builder = self._builder(subject, key).add_extension(x509.BasicConstraints(False, None), critical=True)
        self._write(certificate, builder.add_extension(x509.SubjectAlternativeName(map(_general, names)), False))
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        secret.write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
        return certificate, secret

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        of_subject = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        of_issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return builder.add_extension(of_subject, False).add_extension(of_issuer, False)

    def _write(self, path: Path, builder: x509.CertificateBuilder) -> None:
        path.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def _general(name: str) -> x509.GeneralName:
    with suppress(ValueError):
        return x509.IPAddress(ip_address(name))
    return x509.DNSName(name)


@dataclass
class Door:
    """Takes TLS on `port` and hands on what is inside to `server`. Whoever speaks without TLS is sent away."""

    server: str
    certificate: tuple[Path, Path]
    port: int = field(default_factory=lambda: free_port(None))
    heard: list[bytes] = field(default_factory=list)
    """All that came over the wire, connection by connection, as it came."""
    opened: int = 0
    """Connections whose client has said something inside: who takes the certificate and leaves has not."""
    inside: int = 0
    """Connections that are still there."""

    @property
    def url(self) -> str:
        """The server's URL, by way of this door, over TLS."""
        parts = urlsplit(self.server)
        scheme = parts.scheme if parts.scheme == "postgresql" else f"{parts.scheme}s"
        return parts._replace(scheme=scheme, netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self.port}").geturl()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.inside += 1
        visitor = _Visitor(self, reader, writer)
        try:
            with suppress(OSError, EOFError, ssl.SSLError, asyncio.CancelledError):  # cancelled, it ends, too
                await visitor.enter()
        finally:
            self.inside -= 1
            writer.close()


class _Visitor:
    """One connection through a door."""

    def __init__(self, door: Door, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._door, self._reader, self._writer = door, reader, writer
        self._number = len(door.heard)
        door.heard.append(b"")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*door.certificate)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)

    async def enter(self) -> None:
        """Raises EOFError, OSError or SSLError for whoever turns round at the door."""
        if self._door.server.startswith("postgresql"):
            self._door.heard[self._number] = asked = await self._reader.readexactly(len(SSL_REQUEST))
            if asked != SSL_REQUEST:
                raise EOFError
            self._writer.write(b"S")
        await self._step(self._tls.do_handshake)
        # In TLS 1.3 a client may refuse after that: only what it says inside proves that it did not.
        if not (first := await self._step(self._read)):
            raise EOFError
        self._door.opened += 1
        parts = urlsplit(self._door.server)
        await self._pass_on(first, *await asyncio.open_connection(parts.hostname, parts.port))

    async def _pass_on(self, first: bytes, behind: asyncio.StreamReader, ahead: asyncio.StreamWriter) -> None:
        ways = [asyncio.create_task(self._inward(first, ahead)), asyncio.create_task(self._outward(behind))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ahead.close()  # first: whoever waits for the ways may be cancelled
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _inward(self, data: bytes, ahead: asyncio.StreamWriter) -> None:
        while data:
            ahead.write(data)
            await ahead.drain()
            data = await self._step(self._read)

    async def _outward(self, behind: asyncio.StreamReader) -> None:
        while data := await behind.read(65536):
            self._tls.write(data)
            self._writer.write(self._out.read())
            await self._writer.drain()

    def _read(self) -> bytes:
        return self._tls.read(65536)

    async def _step(self, call: Callable[[], T]) -> T:
        """What `call` returns, once enough has been read for it. Raises EOFError."""
        while True:
            try:
                return call()
            except ssl.SSLWantReadError:
                self._writer.write(self._out.read())
                if not (data := await self._reader.read(65536)):
                    raise EOFError from None
                self._door.heard[self._number] += data
                self._in.write(data)
            finally:
                self._writer.write(self._out.read())


@contextmanager
def open_doors(*doors: Door) -> Iterator[None]:
    """The doors stand open inside the block."""
    ready, loop, end = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def run() -> None:
        servers = [await asyncio.start_server(door.serve, "127.0.0.1", door.port) for door in doors]
        ready.set()
        await end.wait()
        for server in servers:
            server.close()
        await asyncio.sleep(0.05)  # who was let in just now enters: cancelled before, its end of the line stays open
        visitors = asyncio.all_tasks() - {asyncio.current_task()}
        for visitor in visitors:
            visitor.cancel()
        await asyncio.gather(*visitors, return_exceptions=True)
        await asyncio.sleep(0)  # a closed connection is let go of in the loop's next turn

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    try:
        assert ready.wait(10)
        yield
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(10)
        loop.close()


def trusting(url: str, ca: Path) -> str:
    """`url`, whose server must have a certificate of this authority and for its name."""
    return f"{url}?{(DATABASE_SAYS if url.startswith('postgresql') else SAYS).format(ca)}"


def only_tls(heard: bytes) -> bool:
    """Whether these bytes are records of TLS, behind PostgreSQL's question for it."""
    heard = heard.removeprefix(SSL_REQUEST)
    while heard:
        if heard[0] not in (20, 21, 22, 23) or (len(heard) > 1 and heard[1] != 3):
            return False
        heard = heard[5 + int.from_bytes(heard[3:5], "big") :]
    return True
