"""A kind of side effect whose copies fail as told: the database is real, the write is not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.service import Service
from worker import effects
from worker.effects import Effect, Settled
from worker.redirects import State

Answer = Mapping[str, Exception]


@dataclass
class Copies:
    """The copies of one kind: what was written, call by call, and what each call answers or raises."""

    kind: str = "cache"
    answer: Callable[[Sequence[State]], Answer] = lambda _: {}
    calls: list[list[str]] = field(default_factory=list)
    shown: dict[str, State] = field(default_factory=dict)

    def write(self, states: Sequence[State]) -> Answer:
        self.calls.append([state.conversation_id for state in states])
        errors = self.answer(states)
        self.shown |= {state.conversation_id: state for state in states if state.conversation_id not in errors}
        return errors

    def drain(self, service: Service) -> Settled:
        return effects.drain(service.engine, Effect(self.kind, self.write))


def raises(error: BaseException) -> Callable[[Sequence[State]], Answer]:
    def answer(_: Sequence[State]) -> Answer:
        raise error

    return answer


def left(service: Service) -> list[tuple[list[str], str, int, str | None]]:
    return [(row["conversation_ids"], row["state"], row["failures"], row["last_error"]) for row in service.effects()]
