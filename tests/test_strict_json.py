"""JSON that a strict reader takes, whatever the numbers."""
import json
import math

import pytest

from utils.strict_json import as_json, read_metrics


def test_what_is_not_finite_is_null_and_comes_back_as_nan():
    text = as_json({"step": 3, "a": math.nan, "b": -math.inf, "c": 0.1, "d": {"e": [math.inf, 2]}})

    def refuse(word):
        pytest.fail(f"{word} is no JSON")

    assert json.loads(text, parse_constant=refuse) == {"step": 3, "a": None, "b": None, "c": 0.1, "d": {"e": [None, 2]}}
    read = read_metrics(as_json({"step": 3, "a": math.nan, "c": 0.1}))
    assert math.isnan(read.pop("a")) and read == {"step": 3, "c": 0.1}
    assert math.isnan(read_metrics('{"a": NaN}')["a"])  # as older versions wrote it
