"""The filters of LangGraph's `SearchOp`: what they accept, with the comparisons of its `InMemoryStore`."""

import operator
from collections.abc import Mapping
from typing import Any

_COMPARISONS = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}


def fits(value: Any, wanted: Any) -> bool:
    """Return whether a value fits a filter: operators, an object with these fields, or an equal value."""
    if isinstance(wanted, Mapping):
        if any(name.startswith("$") for name in wanted):
            return all(_compares(value, name, operand) for name, operand in wanted.items())
        return isinstance(value, Mapping) and all(fits(value.get(name), each) for name, each in wanted.items())
    if isinstance(wanted, (list, tuple)) and isinstance(value, list):
        return len(value) == len(wanted) and all(map(fits, value, wanted))
    return bool(value == wanted)


def _compares(value: Any, name: str, operand: Any) -> bool:
    """Return whether a comparison holds; what is no number is neither more nor less."""
    if name in ("$eq", "$ne"):
        return (value == operand) is (name == "$eq")
    if name not in _COMPARISONS:
        raise ValueError(f"{name!r} is no operator of a filter; use $eq, $ne, $gt, $gte, $lt, or $lte")
    try:
        return bool(_COMPARISONS[name](float(value), float(operand)))
    except (TypeError, ValueError, OverflowError):
        return False
