"""Which tokens open the gateway's doors, until when, and that none is ever printed."""

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.integration.gateways import Gateway, snapshot
from tests.integration.posting import event, post
from tests.integration.tokens import (
    MADE,
    SECRET,
    asking,
    bearer,
    by_hand,
    close_code,
    closed_with,
    get,
    is_refused,
    is_taken,
    offering,
    token,
    tokens_in,
)
from tests.service import Service


@pytest.fixture(scope="module")
def web(private: Service) -> Iterator[Gateway]:
    """A gateway that asks for tokens that its secret has signed."""
    with asking(private) as web:
        yield web


# How it is brought.


def test_a_token_opens_both_doors(web: Gateway) -> None:
    """HTTP, and the socket, which answers with `redirect.v1`."""
    assert is_taken(web, token("7"))


def test_a_token_may_come_in_the_first_message(web: Gateway) -> None:
    """The snapshot is the answer."""
    with web.socket() as live:
        live.send(json.dumps({"type": "authenticate", "token": token("7")}))
        assert snapshot(live) == []


def test_without_a_token_nothing_is_read(web: Gateway) -> None:
    """401, and the scheme is named."""
    for path in ("/conversations", "/conversations/c1", "/conversations/c1/redirects", "/activity"):
        answer = web.get(path)
        assert (answer.status, answer.headers.get("www-authenticate")) == (401, "Bearer"), (path, answer)


def test_a_socket_that_brings_no_token_is_closed(web: Gateway) -> None:
    """With 4401, five seconds after it was opened; nothing was said before."""
    with web.socket() as live:
        started = time.monotonic()
        assert close_code(live) == 4401
        assert time.monotonic() - started > 4


def test_a_token_in_an_address_is_refused(web: Gateway) -> None:
    """However valid: the handshake with 403, and over HTTP it is none."""
    good = token("7")
    for query in (f"?token={good}", f"?access_token={good}", f"?owner_id=7&token={good}"):
        with pytest.raises(InvalidStatus, match="403"), web.socket(query, **offering(good)):
            pass
    assert web.get(f"/conversations?token={good}").status == 401


# Until when.


def test_an_expired_token_is_refused(web: Gateway) -> None:
    """Once more than the five seconds are over that clocks may differ."""
    assert is_taken(web, token("7", lifetime=-1))
    assert is_refused(web, token("7", lifetime=-7))


@pytest.mark.slow
def test_a_token_that_ends_closes_its_socket(web: Gateway) -> None:
    """With 4401, five seconds after its `exp`, while another one stays open."""
    with web.socket(**offering(token("7", lifetime=2))) as ending, web.socket(**offering(token("7"))) as staying:
        started = time.monotonic()
        assert snapshot(ending) == snapshot(staying) == []
        assert close_code(ending, within=15) == 4401
        assert 5 < time.monotonic() - started < 10
        with pytest.raises(TimeoutError):
            staying.recv(timeout=0.1)


def test_a_token_that_is_good_for_too_long_is_refused(private: Service) -> None:
    """REDIRECT_JWT_LIFETIME is what a token may still be good for."""
    with asking(private, REDIRECT_JWT_LIFETIME="60") as web:
        assert is_taken(web, token("7", lifetime=59))
        assert is_refused(web, token("7", lifetime=120))


def test_a_token_without_an_end_is_refused(web: Gateway) -> None:
    """`exp` is required."""
    assert is_refused(web, unending())


def unending() -> str:
    import jwt

    made = jwt.encode({"owner_ids": ["7"]}, SECRET, algorithm="HS256")
    MADE.add(made)
    return made


@pytest.mark.parametrize("exp", ["9999999999", 1e999, None, [], "soon", -1e308], ids=repr)
def test_an_end_that_is_no_number_is_refused(web: Gateway, exp: Any) -> None:
    """Whoever signed it: a token that cannot be read is no error of ours."""
    assert is_refused(web, by_hand({"alg": "HS256"}, SECRET.encode(), exp=exp))


def test_a_token_that_is_not_good_yet_is_refused(web: Gateway) -> None:
    """`nbf` is heeded where it is given."""
    assert is_refused(web, token("7", nbf=int(time.time()) + 60))


# Who signed it.


def test_a_token_of_another_secret_is_refused(web: Gateway) -> None:
    """Whatever it claims."""
    assert is_refused(web, token("*", secret=SECRET[::-1]))


def test_a_token_whose_claims_were_changed_is_refused(web: Gateway) -> None:
    """The signature is of the claims that were signed."""
    header, _, signature = token("7").split(".")
    _, claims, _ = token("*").split(".")
    assert is_refused(web, f"{header}.{claims}.{signature}")


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE"])
def test_a_token_that_nobody_signed_is_refused(web: Gateway, algorithm: str) -> None:
    """`alg` may say what it likes."""
    assert is_refused(web, by_hand({"alg": algorithm}, None))


@pytest.mark.parametrize("junk", ["x", ".", "..", "a.b.c", "é.é.é", "x" * 9000])
def test_what_is_no_token_is_refused(web: Gateway, junk: str) -> None:
    """And is not an error of ours. In the first message, which takes any text."""
    assert in_a_message(web, junk) == 4401
    assert get(web, "/conversations", junk.encode("latin-1").decode("latin-1")).status == 401


def test_half_a_character_is_no_token(web: Gateway) -> None:
    """JSON can say it, UTF-8 cannot."""
    assert in_a_message(web, "\ud800") == 4401


@pytest.mark.parametrize("part", [0, 1])
def test_a_token_that_nests_too_deeply_is_refused(web: Gateway, part: int) -> None:
    """Header or claims: JSON that no parser of ours follows to its end."""
    deep = base64.urlsafe_b64encode(b"[" * 3000).rstrip(b"=").decode()
    parts = token("7").split(".")
    parts[part] = deep
    assert is_refused(web, ".".join(parts))


def in_a_message(web: Gateway, shown: str) -> int:
    with web.socket() as live:
        live.send(json.dumps({"type": "authenticate", "token": shown}))
        return close_code(live)


# What it claims.


@pytest.mark.parametrize("owner_ids", [None, "7", 7, [7], ["7", None], {"7": True}, True], ids=repr)
def test_owners_that_are_no_array_of_text_are_refused(web: Gateway, owner_ids: Any) -> None:
    """Text would be read letter by letter, and what is missing would be everybody."""
    assert is_refused(web, by_hand({"alg": "HS256"}, SECRET.encode(), owner_ids=owner_ids))


@pytest.mark.parametrize("conversation_ids", ["c1", [1], {"c1": True}], ids=repr)
def test_conversations_that_are_no_array_of_text_are_refused(web: Gateway, conversation_ids: Any) -> None:
    """Instead of showing all of them."""
    assert is_refused(web, token("7", conversation_ids=conversation_ids))


def test_a_scope_that_is_no_text_is_refused(web: Gateway) -> None:
    """Words with spaces between, as in RFC 8693."""
    assert is_refused(web, by_hand({"alg": "HS256"}, SECRET.encode(), scope=["send"]))


@pytest.mark.parametrize("owner", ["a\x00b", "\ud800"], ids=ascii)
def test_an_owner_that_no_text_holds_is_refused(web: Gateway, owner: str) -> None:
    """NUL and half a character, which no text in PostgreSQL holds, are no error of ours."""
    assert get(web, "/conversations", token(owner)).status == 403
    assert closed_with(web, token(owner)) == 4403


def test_audience_and_issuer_are_heeded_where_they_are_set(private: Service) -> None:
    """Each of them must be what the settings say; where nothing is set, they may say anything."""
    with asking(private, REDIRECT_JWT_AUDIENCE="redirect", REDIRECT_JWT_ISSUER="https://issuer.example") as web:
        right: dict[str, Any] = {"aud": "redirect", "iss": "https://issuer.example"}
        assert is_taken(web, token("7", **right))
        for wrong in ({"aud": "other"}, {"iss": "other"}):
            assert is_refused(web, token("7", **(right | wrong)))
        assert is_refused(web, token("7"))


def test_where_no_audience_is_set_a_token_may_name_one(web: Gateway) -> None:
    """Not every issuer leaves it out."""
    assert is_taken(web, token("7", aud="anybody", iss="anybody"))


# The log.


def test_no_token_is_ever_printed(web: Gateway) -> None:
    """Neither good nor bad ones, nor their signatures, however they came. The log of each `asking` gateway is read."""
    good, bad = token("7", scope="send"), token("7", secret=SECRET[::-1])
    for shown in (good, bad):
        get(web, "/conversations", shown)
        web.get(f"/conversations?token={shown}")
        web.get(f"/{shown}")
        post(web, event("e1"), **bearer(shown))
        with pytest.raises(InvalidStatus), web.socket(f"?token={shown}"):
            pass
    with web.socket(**offering(good)) as live:
        live.send("no JSON")
        assert close_code(live) == 4400
    assert in_a_message(web, bad) == closed_with(web, bad) == 4401
    assert tokens_in(f"… {good} {bad.rpartition('.')[2]} …") == sorted(
        [good, *(one.rpartition(".")[2] for one in (good, bad))]
    )
    assert tokens_in(web.process.log.read_text()) == []
