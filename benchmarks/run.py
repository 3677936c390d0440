"""A whole run: the alternations, then memory, sweep and sockets."""

import time
from datetime import UTC, datetime
from typing import Any

import click

from benchmarks import growth, latency, machine, sweep, throughput
from benchmarks.events import Source
from benchmarks.plan import WARM_UP, Plan
from benchmarks.processes import NotReady
from benchmarks.services import Services
from benchmarks.sockets import alternations as sockets
from benchmarks.systems import System, on_stage


def say(text: str) -> None:
    click.echo(f"{datetime.now(UTC):%H:%M:%S} {text}")


def run(plan: Plan) -> dict[str, Any]:
    """Everything of `plan`; raises CheckFailed or NotReady at the first failure."""
    if different := machine.differences():
        raise NotReady(f"requirements-bench.lock is behind requirements.lock: {', '.join(different)}")
    about = machine.machine()
    say(f"{plan.alternations} alternations, seed {plan.seed}; about {plan.seconds_left(0) / 60:.0f} minutes")
    if float(about["load before the run"]) > 0.5:
        say(f"the machine is busy (load {about['load before the run']}): the figures will be worse than they could be")
    started = time.monotonic()
    with Services() as services:
        plan.systems = _possible(plan, services)
        found = {system.name: _described(system) for system in plan.systems}
        _alternate(plan, services, found)
        growing = plan.growing()
        memory = growing and growth.measure(services, growing, plan.seed, plan.growth_step, say)
        sweeps = None
        if "sweep" not in plan.skip:
            sweeps = sweep.measure(services, plan.sweep_sizes, plan.alternations, say)
        live = None
        if "sockets" not in plan.skip:
            live = sockets.measure(services, plan.load, plan.socket_alternations, say)
        return {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "seconds": time.monotonic() - started,
            "seed": plan.seed,
            "alternations": plan.alternations,
            "latency_events": plan.latency_events,
            "machine": about,
            "versions": services.versions() | machine.libraries(),
            "postgres": services.settings(),
            "systems": list(found.values()),
            "memory": memory,
            "sweep": sweeps,
            "sockets": live,
        }


def _possible(plan: Plan, services: Services) -> list[System]:
    possible = [system for system in plan.systems if system.broker == "none" or system.broker in services.urls]
    if len(possible) < len(plan.systems):
        say("RabbitMQ is not installed: what needs it is left out")
    return possible


def _described(system: System) -> dict[str, Any]:
    return {
        "name": system.name,
        "label": system.label,
        "broker": system.broker,
        "runs": [],
        "latency": [],
    }


def _alternate(plan: Plan, services: Services, found: dict[str, dict[str, Any]]) -> None:
    turns = [(round_, system) for round_ in range(plan.alternations) for system in plan.systems]
    for done, (round_, system) in enumerate(turns):
        left = plan.seconds_left(done)
        say(f"alternation {round_ + 1}/{plan.alternations}, {system.name} ({left / 60:.0f} minutes left)")
        began = time.monotonic()
        one, times = _one(plan, services, system, plan.seed + round_)
        plan.took[system.name] = time.monotonic() - began
        found[system.name]["runs"].append(one)
        if times:
            found[system.name]["latency"].append(times)


def _one(plan: Plan, services: Services, system: System, seed: int) -> tuple[dict[str, Any], list[float]]:
    """One turn of one system; latency first, as backlogs differ and so does what the servers tidy up after them."""
    source, count = Source(seed), plan.backlog(system)
    warm, backlog = source.take(WARM_UP, "warm"), source.take(count)
    quiet = source.take(plan.latency_events, "quiet") if plan.latency(system) else []
    with on_stage(services, system) as stage:
        throughput.warm_up(system, stage, warm)
        times = latency.measure(system, stage, quiet) if quiet else []
        done = len(warm) + len(quiet)
        throughput.wait_for(system, stage, done)
        if times:
            say(f"  latency: median {sorted(times)[len(times) // 2]:.1f} ms")
        found = throughput.measure(system, stage, backlog, done)
        found["outcomes"] = system.check(stage, done + count)
        say(
            f"  {found['rate']:,.0f}/s, {found['cpu_ms']:.2f} ms CPU, {found['statements']:.2f} statements per redirect"
        )
        return found, times
