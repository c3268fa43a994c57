"""The tree of settings: conversion, limits, and errors that name what would be right."""

import json

import pytest

from tradewind.base.errors import ConfigError
from tradewind.config import Config, from_flat, from_tree, settings, to_tree


def test_names_and_aliases_are_unique_over_the_tree():
    names = [option for leaf in settings() for option in leaf.option_names]
    assert len(names) == len(set(names))


def test_defaults_need_no_value():
    assert from_flat({}) == Config()


def test_strings_become_the_settings_own_type():
    config = from_flat({"max_num_seqs": "8", "memory_bytes": "1.5GiB", "prefix_caching": "off", "api_key": "k"})
    assert config.scheduler.max_running == 8
    assert config.cache.memory_bytes == 3 * 2**29
    assert config.cache.prefix_caching is False
    assert config.server.api_key == "k"


def test_the_tree_survives_json():
    config = from_flat({"served_model_name": ["a", "b"], "run_ahead": True, "max_model_len": 99})
    assert from_tree(json.loads(json.dumps(to_tree(config)))) == config


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"max_modle_len": 1}, "did you mean 'max_model_len'?"),
        ({"dtype": "bfloat61"}, "did you mean 'bfloat16'?"),
        ({"max_model_len": 0}, "--max-model-len must be at least 1, not 0"),
        ({"port": "70000"}, "between 0 and 65535"),
        ({"max_model_len": "many"}, "--max-model-len must be a whole number, not 'many'"),
        ({"max_model_len": 1.5}, "whole number"),
        ({"max_model_len": True}, "whole number"),
        ({"memory_fraction": "nan"}, "--memory-fraction must be a number"),
        ({"memory_bytes": "4 gallons"}, "write for instance 4GiB"),
        ({"prefix_caching": "maybe"}, "must be true or false"),
        ({"port": None}, "--port needs a value"),
        ({"model": 3}, "--model must be text"),
    ],
)
def test_wrong_settings_are_refused_with_what_would_be_right(values, wanted):
    with pytest.raises(ConfigError) as error:
        from_flat(values)
    assert wanted in error.value.message
    assert error.value.field == next(iter(values))
