"""A text that quotes a secret leaves no process with it; and no setting is forgotten."""

from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from config import hiding
from config.settings import Settings, settings
from tests.security.planted import NO_SECRET, Planted, found, of_text, plant


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Planted]:
    """This process with a secret in every setting that can hold one."""
    made = plant("postgresql://{user}@h/d", "amqp://{user}@h//;amqp://{user}@i//", "rediss://{user}@h:1/0", 1)
    for name, value in made.variables.items():
        monkeypatch.setenv(name, value)
    _forget()
    yield made
    _forget()


def _forget() -> None:
    settings.cache_clear()
    hiding._forms.cache_clear()


def test_every_setting_of_text_is_known() -> None:
    """A new one is in the list of those that hold no secret, or it has one planted in every test of this folder."""
    with_secret = set(plant("{user}", "{user}", "{user}", 1).secrets) - {"flower"}
    assert of_text() == NO_SECRET.keys() | with_secret
    assert not NO_SECRET.keys() & with_secret


def test_every_secret_is_hidden(planted: Planted) -> None:
    """As it is, percent-encoded, and as JSON and Python write it; what is no secret stays."""
    known = {name: listed for name, listed in planted.secrets.items() if name != "flower"}
    for listed in known.values():
        for one in listed:
            for text in (f"<{one}>", f"{planted.variables} {one!r}", str([one]), f'{{"a": "{one}"}}'):
                assert one not in hiding.hide(text)
    everything = " ".join(value for name, value in planted.variables.items() if name != "FLOWER_BASIC_AUTH")
    hidden = hiding.hide(everything)
    assert found(hidden, planted.all()) == []
    assert "postgresql://planted:**@h/d" in hidden and "amqp://planted:**@h//;amqp://planted:**@i//" in hidden


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("redirect applied: guest", "redirect applied: guest"),
        ("amqp://guest:guest@h:5672//", "amqp://guest:**@h:5672//"),
        ("'redis://:short@h/0' and https://a.example/b@c", "'redis://:**@h/0' and https://a.example/b@c"),
        ("http://[::1]:80/ at 12:30 by me@here", "http://[::1]:80/ at 12:30 by me@here"),
    ],
)
def test_a_short_password_is_hidden_in_addresses_only(text: str, hidden: str) -> None:
    """`guest` is a word; behind a name and before an @ it is a password, known or not."""
    _forget()
    assert hiding.hide(text) == hidden


@pytest.mark.parametrize("variable", ["DATABASE_URL", "BROKER_URL", "REDIS_URL", "REDIRECT_RABBITMQ_API"])
def test_an_address_that_cannot_be_read_is_not_quoted(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password with a slash in it: the libraries would tell what they took for the port."""
    monkeypatch.setenv(variable, "scheme://user:hunter2/rest@host:5432/db")
    with pytest.raises(ValidationError, match=f"{variable} is no address: percent-encode") as error:
        Settings()
    assert "hunter2" not in f"{error.value} {error.value!r} {error.value.__cause__}"


def test_an_address_of_keys_has_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """urllib would take it for a part of the port, and say so."""
    monkeypatch.setenv("REDIRECT_JWT_JWKS", "https://user:hunter2@keys.example/jwks")
    with pytest.raises(ValidationError, match="no user and no password") as error:
        Settings()
    assert "hunter2" not in str(error.value)
