"""Sampling parameters in and out of range."""

import math

import pytest

from tradewind.base.errors import RequestError
from tradewind.protocol.sampling import SamplingParams
from tradewind.protocol.validate import validate

VOCAB = 100

WRONG = [
    ("n", 0, "from 1 to 128"),
    ("n", 1.5, "whole number"),
    ("temperature", -1, "from 0"),
    ("temperature", math.nan, "not nan"),
    ("temperature", math.inf, "not inf"),
    ("temperature", "hot", "not 'hot'"),
    ("temperature", True, "a number"),
    ("temperature", 10**400, "a number"),
    ("top_p", 0.0, "above 0 and at most 1"),
    ("top_p", 1.01, "at most 1"),
    ("top_k", -2, "at least -1"),
    ("min_p", 1.5, "from 0 to 1"),
    ("presence_penalty", 2.5, "from -2 to 2"),
    ("frequency_penalty", -2.5, "from -2 to 2"),
    ("repetition_penalty", 0.0, "from 0.001"),
    ("repetition_penalty", 1e-300, "from 0.001"),
    ("seed", 2**64, "whole number"),
    ("seed", "lucky", "whole number"),
    ("max_tokens", 0, "at least 1"),
    ("max_tokens", "many", "whole number"),
    ("min_tokens", -1, "at least 0"),
    ("min_tokens", 17, "max_tokens (16)"),
    ("logprobs", 21, "from 0 to 20"),
    ("prompt_logprobs", -1, "from 0 to 20"),
    ("stop", "end", "list of texts"),
    ("stop", [""], "empty"),
    ("stop", ["x"] * 65, "at most 64"),
    ("stop", ["x" * 1025], "1025 characters"),
    ("bad_words", [" "], "empty"),
    ("bad_words", ["x"] * 1025, "at most 1024"),
    ("bad_words", ["x" * 257], "257 characters"),
    ("stop_token_ids", [100], "0 to 99"),
    ("stop_token_ids", 5, "list of token ids"),
    ("allowed_token_ids", [-1], "0 to 99"),
    ("allowed_token_ids", [], "at least one"),
    ("logit_bias", {100: 1.0}, "0 to 99"),
    ("logit_bias", {"5": 1.0}, "0 to 99"),
    ("logit_bias", {5: 101}, "-100 to 100"),
    ("logit_bias", {5: math.nan}, "-100 to 100"),
    ("logit_bias", [5], "map token ids"),
]


@pytest.mark.parametrize(("field", "value", "words"), WRONG)
def test_wrong_value_names_field_and_what_would_be_right(field, value, words):
    with pytest.raises(RequestError) as caught:
        validate(SamplingParams(**{field: value}), VOCAB, 20)
    assert caught.value.field == field
    assert field in caught.value.message
    assert words in caught.value.message


def test_stop_strings_need_text():
    with pytest.raises(RequestError, match="detokenize"):
        validate(SamplingParams(stop=["x"], detokenize=False), VOCAB, 20)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(n=128, temperature=0, top_p=1, top_k=-1, min_p=1, seed=-(2**63), max_tokens=None),
        SamplingParams(logit_bias={0: -100, 99: 100.0}, allowed_token_ids=[0, 99], stop=["a", "b"], logprobs=20),
        SamplingParams(seed=2**64 - 1, min_tokens=16, bad_words=["no"], stop_token_ids=[], prompt_logprobs=0),
    ],
)
def test_values_in_range_pass(params):
    validate(params, VOCAB, 20)
