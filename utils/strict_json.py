"""JSON that every reader takes: a number that is not finite, which JSON does not know, is written as null."""
import json
import math


def as_json(value, indent: int | None = None) -> str:
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(text: str) -> dict[str, float | str]:
    """Flat metrics that `as_json` wrote; null is NaN again."""
    return {name: math.nan if value is None else value for name, value in json.loads(text).items()}
