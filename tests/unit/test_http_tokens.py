"""REDIRECT_HTTP_TOKENS: read from what is set, never printed, and never nobody asked for one by mistake."""

import pytest
from pydantic import ValidationError

from config.settings import Settings

FIRST, SECOND = "first-token-0123456789", "second-token-0123456789"


def tokens(monkeypatch: pytest.MonkeyPatch, written: str) -> list[str]:
    monkeypatch.setenv("REDIRECT_HTTP_TOKENS", written)
    return [token.get_secret_value() for token in Settings().http_tokens or ()]


@pytest.mark.parametrize(
    "written", [f"{FIRST},{SECOND}", f" {FIRST} , {SECOND},", f'["{FIRST}", "{SECOND}"]', f' ["{FIRST}","{SECOND}"]']
)
def test_tokens_are_a_list(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    """With commas between, or as JSON; spaces around them are not part of them."""
    assert tokens(monkeypatch, written) == [FIRST, SECOND]


def test_left_out_or_empty_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with every other setting."""
    assert tokens(monkeypatch, "") == []
    monkeypatch.delenv("REDIRECT_HTTP_TOKENS")
    assert Settings().http_tokens is None


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("short", "at least 16 characters"),
        (f"{FIRST},short", "at least 16 characters"),
        (",", "should be left out"),
        ("[]", "should be left out"),
        ('[""]', "should be left out"),
        (f'["{FIRST}", 5]', "commas between, or a JSON array"),
        (f'["{FIRST}"', "commas between, or a JSON array"),
    ],
)
def test_what_cannot_be_meant_is_refused_unprinted(monkeypatch: pytest.MonkeyPatch, written: str, says: str) -> None:
    """A list of no tokens would let everybody in; the error says what is wrong and not what was set."""
    with pytest.raises(ValidationError, match=says) as refused:
        tokens(monkeypatch, written)
    assert FIRST not in str(refused.value)
    assert "short" not in str(refused.value)


def test_tokens_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by printing the settings nor by dumping them."""
    tokens(monkeypatch, FIRST)
    assert FIRST not in f"{Settings()!r} {Settings().model_dump_json()}"
