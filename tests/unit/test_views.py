"""What a token shows."""

import pytest

from worker.gateway.views import Unseen, View


def test_owners_and_conversations_narrow_together() -> None:
    """A conversation is shown when its owner is, and it is one of the conversations where those are named."""
    view = View(frozenset(["7"]), frozenset(["c1"]))
    assert view.shows("7", "c1")
    assert not view.shows("7", "c2")
    assert not view.shows("8", "c1")
    assert not view.shows(None, "c1")


def test_a_view_of_everybody_shows_what_has_no_owner() -> None:
    """Only `*` shows a conversation whose owner is not known."""
    assert View().shows(None, "c1")
    assert View().everything
    assert not View(conversation_ids=frozenset(["c1"])).everything


def test_a_view_is_narrowed_and_never_widened() -> None:
    """Of one's own owners one can be chosen; another is refused."""
    assert View().of("7") == View(frozenset(["7"]))
    assert View(frozenset(["7", "8"])).of("8") == View(frozenset(["8"]))
    assert View(frozenset(["7"])).of(None) == View(frozenset(["7"]))
    with pytest.raises(Unseen, match="'9'"):
        View(frozenset(["7"])).of("9")
