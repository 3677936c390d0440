"""Flower's configuration file (`--conf`): what operators watch. Flower reads the plain names as its options."""

import os
import sys
from urllib.parse import urlsplit

from flower.app import Flower
from tornado.options import options

from config import flower_door, sentry
from config.settings import LOOPBACK, settings

sentry.start("flower")

# Loopback only: Flower can stop workers, and it has no password here. To publish it, put it behind a proxy with one,
# or give it --basic-auth.
address = "127.0.0.1"
# The command line wins over this file.
_public = [word for word in sys.argv if word.startswith("--address") and word.partition("=")[2] not in LOOPBACK]
if _public and not (options.basic_auth or options.auth):
    sys.exit(f"Flower can stop workers: with {_public[0]} it needs --basic-auth or --auth")
flower_door.guard(Flower)
port = settings().flower_port
# Over TLS where the broker is: Flower would ask the management API in clear, with the broker's password.
_broker = urlsplit(settings().broker_url or "")
if _broker.scheme == "amqps" and not options.broker_api:
    broker_api = f"https://{_broker.hostname}:15671/api/"
# Its API (task counts, worker names) answers without a password, where only this machine reaches it.
if not _public:
    os.environ.setdefault("FLOWER_UNAUTHENTICATED_API", "true")
# Everything it shows is held in memory: 10,000 tasks are about 30 MiB.
max_tasks = 10_000
# Workers that are gone for an hour are history.
purge_offline_workers = 3600
natural_time = True
# Ask the workers less often than every second: idle means idle.
inspect_timeout = 2000.0
