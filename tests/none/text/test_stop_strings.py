"""Stop strings against their definition."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradewind.base.errors import RequestError
from tradewind.text.stops import StopScan, StopStrings

words = st.text("ab", min_size=1, max_size=7)


def brute_force(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """Of all matches, the one that ends first; of those that end there, the longest."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return (text[:end] if include else text[: end - len(stop)]), stop
    return text, None


@settings(max_examples=800, deadline=None)
@given(parts=st.lists(st.text("abc", max_size=6), max_size=8), stops=st.lists(words, max_size=4), include=st.booleans())
def test_as_defined(parts: list[str], stops: list[str], include: bool) -> None:
    scanner = StopStrings(stops, include)
    expected, stopped_by = brute_force("".join(parts), stops, include)
    given_out, read = "", ""
    for part in parts:
        scan = scanner.push(part)
        read += part
        given_out += scan.text
        assert expected.startswith(given_out)  # nothing of a match leaks
        assert scan.stopped_by == brute_force(read, stops, include)[1]
        if scan.stopped_by is None:
            assert len(read) - len(given_out) < max(map(len, stops), default=1)  # and no more is held than need be
            held = read[len(given_out) :]
            assert not held or any(stop.startswith(held) for stop in stops)
    if scanner.push("").stopped_by is None:
        given_out += scanner.flush()
    assert (given_out, scanner.push("").stopped_by) == (expected, stopped_by)


def test_without_stops_text_passes() -> None:
    scanner = StopStrings([])
    assert scanner.push("anything") == StopScan("anything", None)
    assert scanner.flush() == ""


def test_across_parts() -> None:
    scanner = StopStrings(["\nUser:"])
    assert scanner.push("Hi\nUs") == StopScan("Hi", None)
    assert scanner.push("ually") == StopScan("\nUsually", None)
    assert scanner.push("\n\nUser") == StopScan("\n", None)
    assert scanner.push(": hello") == StopScan("", "\nUser:")
    assert scanner.push("more") == StopScan("", "\nUser:")


def test_included() -> None:
    scanner = StopStrings(["END"], include=True)
    assert scanner.push("the E") == StopScan("the ", None)
    assert scanner.push("ND.") == StopScan("END", "END")


def test_the_match_that_is_complete_first_wins() -> None:
    assert StopStrings(["bcd", "c"]).push("abcd") == StopScan("ab", "c")
    assert StopStrings(["c", "bc"]).push("abcd") == StopScan("a", "bc")


@pytest.mark.parametrize("stop", ["aabaaac", "abacabab", "aaab"])
def test_a_match_that_begins_inside_a_failed_one(stop: str) -> None:
    for begun, joined in product(range(len(stop)), repeat=2):
        text = stop[:begun] + stop[joined:]
        scanner = StopStrings([stop])
        scan = scanner.push(text)
        assert (scan.text + scanner.flush(), scan.stopped_by) == brute_force(text, [stop], False)


def test_flush_starts_anew() -> None:
    scanner = StopStrings(["ab"])
    assert scanner.push("a").text == ""
    assert scanner.flush() == "a"
    assert scanner.push("b") == StopScan("b", None)


def test_long_repetitive_stops_take_linear_time() -> None:
    scanner = StopStrings(["a" * 5000 + "b", "a" * 4999 + "c"])
    for _ in range(2000):
        scanner.push("aaaaaaaaaa")
    assert scanner.push("b").stopped_by == "a" * 5000 + "b"


def test_empty_stop_string() -> None:
    with pytest.raises(RequestError, match="empty") as caught:
        StopStrings(["x", ""])
    assert caught.value.field == "stop"
