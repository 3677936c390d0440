"""What ops/ says, read as data, for the tests that hold it to the code."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from flower.options import default_options

from config.celery import options
from config.settings import Settings
from worker import stack
from worker.intake.__main__ import PATIENCE

ROOT = Path(__file__).resolve().parents[1]
OPS = ROOT / "ops"
DOCUMENT = ROOT / "docs/deploy.md"
# Process type -> the words of its command: the Procfile is what everything here must agree with.
COMMANDS = {name: shlex.split(line) for name, line in stack.procfile().items()}
PROCESSES = [name for name in COMMANDS if name != "release"]
SETTINGS = {str(field.validation_alias or f"REDIRECT_{name.upper()}") for name, field in Settings.model_fields.items()}
URLS = {"DATABASE_URL", "BROKER_URL", "REDIS_URL", "SENTRY_DSN"}
# Those that a process must not have unless it needs them.
SECRETS = URLS | {"REDIRECT_JWT_SECRET", "REDIRECT_HTTP_TOKENS", "REDIRECT_METRICS_TOKENS"}


def is_known(variable: str) -> bool:
    """Whether it is a setting of this service, or an option of Flower."""
    return variable in SETTINGS or (
        variable.startswith("FLOWER_") and variable.removeprefix("FLOWER_").lower() in default_options
    )


def yaml_documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def variables(path: Path) -> dict[str, str]:
    """The variables of an environment file, also those that are commented out."""
    return dict(re.findall(r"^#?([A-Z][A-Z_]+)=(.*)$", path.read_text(), re.MULTILINE))


def rows(*header: str) -> Iterator[list[str]]:
    """The cells of the table of docs/deploy.md with this header."""
    _, found, rest = DOCUMENT.read_text().partition(f"| {' | '.join(header)} |\n")
    assert found, header
    for line in rest.splitlines()[1:]:
        if not line.startswith("|"):
            return
        yield [cell.strip(" `") for cell in line.strip("|").split(" | ")]


def needs() -> dict[str, set[str]]:
    """Process type -> the secrets that it needs, as docs/deploy.md tells."""
    found: dict[str, set[str]] = {name: set() for name in COMMANDS}
    for setting, who, _ in rows("setting", "who needs it", "what to know"):
        for name in PROCESSES if who == "everybody" else who.split(", "):
            if setting in SECRETS:
                found[name].add(setting)
    return found


def seconds(text: str) -> float:
    """The number that `30 s, a task's hard limit` begins with."""
    number, unit = text.partition(",")[0].split()
    assert unit == "s"
    return float(number)


def patience() -> dict[str, float]:
    """Process type -> the seconds from SIGTERM to SIGKILL that docs/deploy.md tells."""
    return {row[0]: seconds(row[3]) for row in rows(*STOPPING)}


STOPPING = ("process", "on SIGTERM", "done within", "patience before SIGKILL")


def at_least() -> dict[str, float]:
    """Process type -> the seconds that its code may take to end."""
    settings = Settings(broker_url="redis://broker", bind="127.0.0.1")
    soft = options(settings, (), ())["worker_soft_shutdown_timeout"]
    ends_soon = dict.fromkeys(PROCESSES, 5.0)
    return ends_soon | {"worker": settings.task_time_limit + soft, "intake": 2 * PATIENCE}
