from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd_mcp.fleet import code as codes
from herd_mcp.fleet.code import Code
from herd_mcp.jobs import ErrorCode, HerdError

MADE = Code(("192.168.1.23", "10.0.0.7"), 50_123, bytes(range(10)), bytes(range(100, 116)))

short = st.lists(st.ip_addresses(v=4).map(str), max_size=codes.MAX_ADDRESSES)
long = st.lists(st.ip_addresses(v=6).map(str), max_size=codes.MAX_ADDRESSES)
addresses = st.tuples(short, long).map(lambda both: tuple([*both[0], *both[1]][: codes.MAX_ADDRESSES])).filter(bool)


@given(
    addresses,
    st.integers(0, 65535),
    st.binary(min_size=codes.SECRET_BYTES, max_size=codes.SECRET_BYTES),
    st.binary(min_size=codes.DIGEST_BYTES, max_size=codes.DIGEST_BYTES),
)
def test_a_code_says_what_was_written_into_it(
    addresses: tuple[str, ...], port: int, secret: bytes, digest: bytes
) -> None:
    code = Code(addresses, port, secret, digest)
    assert codes.read(codes.write(code)) == code


def test_a_code_may_be_typed_as_people_type() -> None:
    text = codes.write(MADE)
    for typed in (text.lower(), text.replace("-", ""), text.replace("-", " "), f"  {text}\n", text.replace("O", "0")):
        assert codes.read(typed) == MADE
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567-")


def refusal(text: str) -> str:
    with pytest.raises(HerdError) as caught:
        codes.read(text)
    assert caught.value.info.code == ErrorCode.INVALID_REQUEST
    assert caught.value.info.hint
    return caught.value.info.message


def test_every_wrong_missing_doubled_or_swapped_letter_is_found() -> None:
    text = codes.write(MADE).replace("-", "")
    for at, letter in enumerate(text):
        for other in "AQ7":
            if other != letter:
                assert "letter" in refusal(text[:at] + other + text[at + 1 :])
        assert "letter" in refusal(text[:at] + text[at + 1 :])
        assert "letter" in refusal(text[:at] + letter + text[at:])
        if at and text[at - 1] != letter:
            assert "letter" in refusal(text[: at - 1] + letter + text[at - 1] + text[at + 1 :])


@given(st.text(max_size=500))
def test_no_text_is_taken_for_a_code(text: str) -> None:
    refusal(text)


@pytest.mark.parametrize("length", [0, 1, 3, 4, 34, 1000])
def test_bytes_with_the_right_check_that_are_no_code_are_refused(length: int) -> None:
    refusal(encoded(bytes([codes.VERSION]) * length))


def test_a_code_of_another_version_is_told_as_such() -> None:
    raw = base64.b32decode(padded(codes.write(MADE).replace("-", "")))
    assert "version 2" in refusal(encoded(b"\x02" + raw[1 : -codes.CHECK_BYTES]))


def test_a_code_keeps_its_secret_when_it_is_printed() -> None:
    assert MADE.secret.hex() not in repr(MADE)
    assert repr(MADE.secret) not in repr(MADE)


def encoded(body: bytes) -> str:
    check = hashlib.sha256(b"herd-mcp code" + body).digest()[: codes.CHECK_BYTES]
    return base64.b32encode(body + check).decode().rstrip("=")


def padded(letters: str) -> str:
    return letters + "=" * (-len(letters) % 8)
