"""Tokens to deltas: text, stop strings, counts, merging."""

from array import array

import pytest
from fake_engine import CHARACTERS, EOS_ID

from tradewind.engine.output import OutputTable, SequenceOutput, TextRules
from tradewind.protocol.messages import Step
from tradewind.protocol.request import FinishReason
from tradewind.protocol.result import Admission, Finish, PromptLogprobs, TokenLogprobs
from tradewind.text.detokenizer import Detokenizer
from tradewind.text.stops import StopStrings


def tokens_of(text):
    return [CHARACTERS.index(character) for character in text]


def step_of(said, **columns):
    ids, tokens = [pair[0] for pair in said], [pair[1] for pair in said]
    return Step(request_ids=array("q", ids).tobytes(), tokens=array("i", tokens).tobytes(), **columns)


class Reader:
    """Counts how often it is woken."""

    def __init__(self):
        self.wakes = 0

    def wake(self):
        self.wakes += 1


@pytest.fixture
def make(tokenizer):
    def make_output(request_id=0, stops=None, include=False, wake=lambda: None, **rules):
        stop_ids = {EOS_ID, *rules.pop("stop_ids", ())}
        silent = frozenset() if include else frozenset(stop_ids)
        rules = TextRules(silent_ids=silent, eos_ids=frozenset({EOS_ID}), **rules)
        detokenizer = Detokenizer(tokenizer, [], True)
        scanner = StopStrings(stops, include) if stops else None
        return SequenceOutput(request_id, 0, rules, detokenizer, scanner, wake, 10.0)

    return make_output


def push_all(output, text):
    return [output.push(token) for token in tokens_of(text)]


def test_deltas_merge_until_they_are_read(make):
    output = make()
    push_all(output, "Hel")
    push_all(output, "lo")
    delta = output.take()
    assert (delta.text, delta.token_ids, delta.finish_reason) == ("Hello", tokens_of("Hello"), None)
    assert output.take() is None


def test_finish_is_told_once_and_alone_if_it_comes_alone(make):
    output = make()
    push_all(output, "x")
    output.take()
    output.finish(FinishReason.LENGTH)
    delta = output.take()
    assert (delta.text, delta.token_ids, delta.finish_reason) == ("", [], FinishReason.LENGTH)
    assert output.take() is None


def test_stop_string_across_tokens_ends_the_sequence_and_does_not_leak(make):
    output = make(stops=["lo w"])
    assert push_all(output, "Hello") == [False] * 5
    assert output.take().text == "Hel"
    assert push_all(output, " w") == [False, True]
    delta = output.take()
    assert (delta.text, delta.finish_reason, delta.stop_reason) == ("", FinishReason.STOP, "lo w")
    assert output.completion_tokens == 7


def test_stop_string_is_included_if_asked_for(make):
    output = make(stops=["lo"], include=True)
    push_all(output, "Hello")
    assert output.take().text == "Hello"


def test_text_held_back_is_said_at_the_end(make):
    output = make(stops=["lo w"])
    push_all(output, "Hello")
    output.finish(FinishReason.LENGTH)
    delta = output.take()
    assert (delta.text, delta.finish_reason, delta.stop_reason) == ("Hello", FinishReason.LENGTH, None)


def test_stop_strings_are_not_looked_for_in_the_first_min_tokens(make):
    output = make(stops=["a"], min_tokens=2)
    assert push_all(output, "aaba") == [False, False, False, True]
    assert output.take().text == "aab"


def test_end_of_sequence_has_no_text_and_is_no_stop_reason(make):
    output = make()
    push_all(output, "a")
    output.push(EOS_ID)
    output.finish(FinishReason.STOP, EOS_ID)
    delta = output.take()
    assert (delta.text, delta.token_ids[-1], delta.stop_reason) == ("a", EOS_ID, None)


@pytest.mark.parametrize(("include", "text"), [(False, "a"), (True, "ab")])
def test_stop_token_is_the_stop_reason_and_is_text_only_if_included(make, include, text):
    stop = tokens_of("b")[0]
    output = make(include=include, stop_ids=[stop])
    push_all(output, "ab")
    output.finish(FinishReason.STOP, stop)
    delta = output.take()
    assert (delta.text, delta.stop_reason) == (text, stop)


def test_logprobs_come_one_per_token(make):
    table = OutputTable()
    output = make(1, wants_logprobs=True, prompt_logprobs_of=3)
    table.add(output)
    positions = [TokenLogprobs([token], [-1.0], 1) for token in (5, 6)]
    prompt_parts = [{1: PromptLogprobs(1, positions[:1])}, {1: PromptLogprobs(2, positions[1:])}]
    table.apply(Step(prompt_logprobs=prompt_parts[0]), 11.0)
    assert output.take() is None
    first, second = TokenLogprobs([7], [-0.5], 1), TokenLogprobs([8], [-0.25], 1)
    table.apply(step_of([(1, 7)], logprobs={1: first}, prompt_logprobs=prompt_parts[1]), 11.0)
    delta = output.take()
    assert delta.logprobs == [first]
    assert delta.prompt_logprobs == [None, *positions]
    table.apply(step_of([(1, 8)], logprobs={1: second}), 12.0)
    delta = output.take()
    assert (delta.logprobs, delta.prompt_logprobs) == ([second], None)


def test_table_hands_each_token_to_its_sequence_and_wakes_each_reader_once(make):
    table, readers = OutputTable(), [Reader(), Reader()]
    outputs = [make(request_id, wake=reader.wake) for request_id, reader in enumerate(readers)]
    for output in outputs:
        table.add(output)
    a, b = tokens_of("ab")
    outcome = table.apply(step_of([(1, b), (0, a)], admitted=[Admission(0, 0.5, 4), Admission(1, 0.25, 0)]), 11.0)
    assert [output.take().text for output in outputs] == ["a", "b"]
    assert [reader.wakes for reader in readers] == [1, 1]
    assert outcome.ttft_s == [1.0, 1.0]
    assert (outputs[0].queue_s, outputs[0].cached_tokens) == (0.5, 4)
    outcome = table.apply(step_of([(0, a)]), 11.5)
    assert (outcome.ttft_s, outcome.inter_token_s) == ([], [0.5])
    assert [reader.wakes for reader in readers] == [2, 1]


def test_table_ends_sequences_and_ignores_what_it_does_not_know(make):
    table = OutputTable()
    outputs = [make(0, stops=["b"]), make(1), make(2)]
    for output in outputs:
        table.add(output)
    assert table.waiting == 3
    b = tokens_of("b")[0]
    finished = [Finish(0, FinishReason.LENGTH), Finish(1, FinishReason.LENGTH), Finish(9, FinishReason.STOP)]
    admitted = [Admission(0, 0.0, 0), Admission(2, 0.0, 0)]
    outcome = table.apply(step_of([(0, b), (1, b), (9, b)], finished=finished, admitted=admitted), 11.0)
    assert outcome.stopped_ids == [0]
    assert outcome.ended == outputs[:2]
    assert (outputs[0].finish_reason, outputs[1].finish_reason) == (FinishReason.STOP, FinishReason.LENGTH)
    assert (len(table), table.waiting) == (1, 0)
    table.forget(2)
    assert (len(table), table.waiting) == (0, 0)
