"""Connections to the broker that Celery does not make; and TLS, which is verified unless a URL says otherwise.

A URL says how, for either broker alike: `amqps://` or `rediss://`, with `?ssl_ca_certs=<file>`, `ssl_certfile`,
`ssl_keyfile`, `ssl_check_hostname=false`, `ssl_cert_reqs=none`. kombu alone takes any certificate for `rediss://`
and any name for `amqps://`, and py-amqp knows the options by other names. Opens nothing.
"""

import os
from ssl import CERT_NONE, CERT_REQUIRED
from typing import Any

import kombu
from amqp.transport import to_host_port
from kombu.transport import pyamqp

_PREFIX = "ssl_"


class Connection(kombu.Connection):
    """kombu's, which shows nothing to a broker that it has not verified."""

    def _init_params(self, **params: Any) -> None:  # type: ignore[override]  # kombu calls it by names
        if params.get("transport") == "rediss" and not params.get("ssl"):
            params["ssl"] = {f"{_PREFIX}cert_reqs": CERT_REQUIRED}
        super()._init_params(**params)

    def get_transport_cls(self) -> Any:
        transport = super().get_transport_cls()
        return _VerifiedTransport if transport is pyamqp.SSLTransport else transport


class VerifiedConnection(pyamqp.Connection):
    """py-amqp's, which verifies over TLS, and reads the options of a URL."""

    _transport: Any  # None when it is closed

    def __init__(self, host: str, **options: Any) -> None:
        if told := options.get("ssl"):
            options["ssl"] = _as_py_amqp_names_it(told, host)
        super().__init__(host, **options)
        self._opened_by = os.getpid()

    def collect(self) -> None:
        """In a fork, let go of what the parent has opened: py-amqp would shut it down for the parent too.

        (kombu has every new process of a pool collect those of its pools that it was born with.)
        """
        if self._transport is not None and self._opened_by != os.getpid():
            self._transport.sock.close()
            self._transport.sock = None
        super().collect()


class _VerifiedTransport(pyamqp.SSLTransport):
    Connection = VerifiedConnection


def _as_py_amqp_names_it(told: Any, host: str) -> dict[str, Any]:
    options = {name.removeprefix(_PREFIX): value for name, value in (told if isinstance(told, dict) else {}).items()}
    options.setdefault("cert_reqs", CERT_REQUIRED)
    named = options.pop("check_hostname", True) and options["cert_reqs"] != CERT_NONE
    # For each connection anew: among several brokers each has a name of its own.
    return options | {"server_hostname": to_host_port(host)[0] if named else None}
