"""What a caller should do next: each class is an instruction, and its docstring is its message."""


class WorkerError(Exception):
    """The redirect worker could not do what it was asked."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)


class Transient(WorkerError):
    """The outside world said no for now; try again."""


class Permanent(WorkerError):
    """Trying again cannot help; a person must look."""


class SideEffectParked(WorkerError):
    """The quick retries of a side effect have ended: the sweep tries again. For Flower; nobody has to act."""


class SideEffectDead(Permanent):
    """No schedule retries this side effect any more; a person must look."""


class Rejected(WorkerError):
    """This event can never be applied; it is kept whole with this reason."""

    def __init__(self, code: str, error: str) -> None:
        """`code` is `malformed`, `too_large`, ... (contract, section 3.2); `error` says what would be right."""
        super().__init__(error)
        self.code = code
        self.error = error
