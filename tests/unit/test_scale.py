"""The calculation behind docs/scale.md: its units, that it grows, which limit is first, and that the page says so."""

import json
from dataclasses import astuple, replace
from typing import Any

import pytest

from benchmarks import assumptions as assumed
from benchmarks import scale
from benchmarks.capacity import DAY, HISTORY_DAYS, SOCKETS, Measured, limits, median, met, step
from benchmarks.figures import Figures

RENEW = "docs/scale.md is old: put there what `python -m benchmarks.scale --markdown` and `--svg` print"
# Round numbers, so that what comes out can be worked out by hand: a core does 1,000 of each per second if always busy.
ONE = Measured(intake_ms=1, worker_ms=1, server_ms=1, statements=0.02, process_mib=50)


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((scale.DOCS / "performance.json").read_text())
    return found


def limit(what: str, measured: Measured = ONE) -> float:
    """The rate of the one limit whose name has these words."""
    (found,) = [one.rate for one in limits(measured) if what in one.what]
    return found


def test_the_page_has_what_the_script_prints(results: dict[str, Any]) -> None:
    """The tables between the marks are those that the figures of performance.json give now."""
    before, begin, rest = (scale.DOCS / "scale.md").read_text().partition(scale.BEGIN)
    made, end, after = rest.partition(scale.END)
    assert begin and end and scale.BEGIN not in rest and scale.END not in before + after
    assert made.strip() == scale.block(results), RENEW


def test_the_picture_is_what_the_script_draws(results: dict[str, Any]) -> None:
    assert (scale.DOCS / "scale.svg").read_text() == scale.picture(results), RENEW


def test_cores_are_cpu_time_over_what_a_core_may_be_busy() -> None:
    """1,000 per second of 1 ms each is one busy core, and a core may be busy for LOAD of the time."""
    assert step(ONE, 1000).worker_cores == pytest.approx(1 / assumed.LOAD)
    assert step(replace(ONE, intake_ms=0.5), 1000).intake_cores == pytest.approx(0.5 / assumed.LOAD)
    assert limit("core of workers") == pytest.approx(1000 * assumed.LOAD)


def test_what_is_measured_is_shared_out_and_nothing_is_added(results: dict[str, Any]) -> None:
    """The intake and the workers together take the CPU time of performance.json; the intake some of it, not most."""
    measured = Measured.of(results)
    cpu = median(Figures(results), "ours-json-rabbitmq", "cpu_ms")
    assert measured.intake_ms + measured.worker_ms == pytest.approx(cpu)
    assert assumed.INTAKE_EVENT_MS <= measured.intake_ms < measured.worker_ms


def test_a_system_that_was_not_measured_is_an_error_and_not_zero() -> None:
    with pytest.raises(LookupError, match="ours-json-rabbitmq"):
        Measured.of({"systems": [], "memory": {"points": []}})


def test_history_is_bytes_of_rows_over_days() -> None:
    """One redirect per second is 86,400 rows a day, and ninety days of them in the table."""
    one = step(ONE, 1)
    assert one.history_per_day == DAY * assumed.ROW_BYTES
    assert one.history == HISTORY_DAYS * one.history_per_day
    assert one.wal_per_day == DAY * assumed.WAL_BYTES


def test_a_full_primary_is_one_primary_and_a_little_more_is_two() -> None:
    """The limit of the disk and the number of primaries for the history say the same."""
    full = limit("disk of one primary")
    assert step(ONE, full * 0.999).primaries_for_history == 1
    assert step(ONE, full * 1.001).primaries_for_history == 2


def test_redis_is_full_where_its_commands_and_the_frames_of_all_gateways_are_its_rate() -> None:
    """Each frame goes to each gateway, and the gateways are as many as the sockets need."""
    rate = limit("hands to all gateways")
    gateways = rate * assumed.SOCKETS_PER_RATE / SOCKETS
    assert rate * (assumed.REDIS_COMMANDS + gateways) == pytest.approx(assumed.REDIS_RATE)


def test_the_network_is_bits_per_second() -> None:
    """The frames that one gateway gets today: one redirect per second is one frame of 300 bytes."""
    assert step(ONE, 1).frames_today == 8 * assumed.FRAME_BYTES
    assert step(ONE, 1).network >= 8 * (assumed.EVENT_BYTES * assumed.EVENT_COPIES + assumed.WAL_BYTES)


def test_arrays_take_a_hundredth_of_the_messages() -> None:
    many = step(ONE, 100 * assumed.QUEUE_RATE)
    assert (many.queues, many.queues_of_arrays) == (100, 1)


@pytest.mark.parametrize("rate", [1, 900, 10_000, 123_456, 1_000_000])
def test_more_redirects_never_take_less(results: dict[str, Any], rate: float) -> None:
    """No number of a step gets smaller when the rate grows; a tenfold rate takes a multiple of the cores."""
    measured = Measured.of(results)
    smaller, larger = step(measured, rate), step(measured, 10 * rate)
    assert all(less <= more for less, more in zip(astuple(smaller), astuple(larger), strict=True))
    assert larger.worker_cores == pytest.approx(10 * smaller.worker_cores)


def test_dearer_redirects_reach_their_limits_sooner(results: dict[str, Any]) -> None:
    """Twice the CPU time halves what a core carries, and lets nothing carry more."""
    measured = Measured.of(results)
    dear = replace(measured, worker_ms=2 * measured.worker_ms)
    cheap = {one.what: one.rate for one in limits(measured)}
    assert all(one.rate <= cheap[one.what] for one in limits(dear))
    assert limit("core of workers", dear) == pytest.approx(cheap["one core of workers"] / 2)


def test_the_first_limits_are_those_that_the_page_tells(results: dict[str, Any]) -> None:
    """Its first sentences: the disk, then what an installation has only one of."""
    found = limits(Measured.of(results))
    assert [one.rate for one in found] == sorted(one.rate for one in found)
    told = [one.what for one in found if one.of != "process"][:3]
    assert told == [
        "disk of one primary, 90 days",
        "frames that one gateway reads",
        "one writer of a kind",
    ]


def test_each_limit_is_met_once_on_the_way_up(results: dict[str, Any]) -> None:
    """The steps share the limits out among them: none twice, none left out below the last."""
    measured = Measured.of(results)
    shared = [
        one for rate, before in zip(scale.RATES, (0, *scale.RATES), strict=False) for one in met(measured, rate, before)
    ]
    assert shared == limits(measured)


def test_every_assumption_has_a_unit_a_reason_and_a_use() -> None:
    """A number that nobody uses would be a claim without a consequence."""
    sources = "".join((scale.DOCS.parent / "benchmarks" / name).read_text() for name in ("capacity.py", "scale.py"))
    assert len(assumed.ALL) >= 20
    for name, value in assumed.ALL.items():
        assert value > 0 and value.unit and len(value.why) > 10, name
        assert f"assumed.{name}" in sources, name


def test_the_command_says_that_it_is_a_calculation(capsys: pytest.CaptureFixture[str]) -> None:
    scale.main([])
    printed = capsys.readouterr().out
    assert printed.startswith("A calculation, not a measurement.")
    assert "1,000,000" in printed and "one writer of a kind" in printed
