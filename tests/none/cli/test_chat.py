"""The terminal chat's own state."""

import pytest

from tradewind.base.errors import ConfigError
from tradewind.cli.chat import Conversation
from tradewind.protocol.sampling import SamplingParams


def talk() -> Conversation:
    conversation = Conversation("be brief", SamplingParams())
    conversation.messages += [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    return conversation


def test_retry_takes_the_question_and_its_answer_back():
    conversation = talk()
    assert conversation.take_last_question() == "hi"
    assert conversation.messages == [{"role": "system", "content": "be brief"}]
    assert conversation.take_last_question() is None


def test_parameters_are_set_by_their_type():
    conversation = talk()
    conversation.set_parameter("temperature", "0.5")
    conversation.set_parameter("ignore_eos", "true")
    assert (conversation.params.temperature, conversation.params.ignore_eos) == (0.5, True)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [("temperatur", "1", "did you mean 'temperature'?"), ("seed", "x", "seed"), ("stop", "x", "no parameter")],
)
def test_what_cannot_be_set_says_why(name, value, wanted):
    with pytest.raises(ConfigError, match=wanted):
        talk().set_parameter(name, value)
