"""python -m tests.chaos.soak [--minutes 30] [--broker rabbitmq|redis] [--seed N]"""

import argparse
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from random import SystemRandom

from tests.chaos.harness.world import world
from tests.chaos.soak.run import Soak
from tests.rabbitmq import RabbitMQ


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description="Random faults under load, and what became of it.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--broker", choices=("rabbitmq", "redis"), default="rabbitmq")
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(10**6))
    options = parser.parse_args()
    print(f"seed {options.seed}: --seed {options.seed} plays the same schedule again", flush=True)  # noqa: T201
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    with ExitStack() as stack:
        node = stack.enter_context(RabbitMQ(folder / "rabbitmq")) if options.broker == "rabbitmq" else None
        one = stack.enter_context(world(folder, options.seed, node))
        failed = Soak(one, options.minutes * 60).run()
    if failed:
        print(f"all logs, and the servers' data, are in {folder}", flush=True)  # noqa: T201
    else:
        shutil.rmtree(folder)
    return failed


if __name__ == "__main__":
    sys.exit(main())
