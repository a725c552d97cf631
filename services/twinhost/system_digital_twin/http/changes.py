"""What differs between two JSON documents, small enough to be sent every second. Pure; `static/changes.js` applies it.

A difference depends on what it changes:

- `[value]` puts this value there, and `[]` removes the name;
- `{name: difference, ...}` changes names of an object;
- `{"of": [part, ...], "at": {index: difference, ...}}` changes a list: it becomes the parts one after the other, each
  `[start, end]`, which is a slice of the list before, or `{"new": [...]}`; then the rows at these indices are changed.
  Without "of" it stays as long as it is.

A row is the same as one before if what names it is the same; a series of numbers moves along. Values that Python calls
equal are equal here, such as `true` and 1: no field has both.
"""

from typing import Any

NAMING = ("id", "seq", "lease_id", "name", "fingerprint", "limit")  # the fields of a row that tell it from others

Difference = dict[str, Any] | list[Any]


def difference(before: Any, after: Any) -> Difference | None:
    """Return what turns the one into the other; None if they are equal."""
    if before == after:
        return None
    if isinstance(before, dict) and isinstance(after, dict):
        gone: dict[str, Difference] = {name: [] for name in before if name not in after}
        changed = {name: _value(before, name, value) for name, value in after.items()}
        return {**gone, **{name: change for name, change in changed.items() if change is not None}}
    if isinstance(before, list) and isinstance(after, list) and before and after:
        return _of_table(before, after) if isinstance(after[0], dict) else _of_series(before, after)
    return [after]


def _value(before: dict[str, Any], name: str, value: Any) -> Difference | None:
    return difference(before[name], value) if name in before else [value]


def _of_series(before: list[Any], after: list[Any]) -> Difference:
    """Return the difference of a series that lost values at its start and has new ones at its end."""
    for lost in range(len(before)):
        kept = len(before) - lost
        if before[lost:] == after[:kept]:
            return {"of": [[lost, len(before)], {"new": after[kept:]}]}
    return [after]


def _of_table(before: list[Any], after: list[Any]) -> Difference:
    places = {_name(row): place for place, row in enumerate(before)}
    parts: list[Any] = []
    changed: dict[str, Difference] = {}
    for at, row in enumerate(after):
        place = places.get(_name(row))
        last = parts[-1] if parts else None
        if place is None:
            if isinstance(last, dict):
                last["new"].append(row)
            else:
                parts.append({"new": [row]})
            continue
        if isinstance(last, list) and last[1] == place:
            last[1] += 1
        else:
            parts.append([place, place + 1])
        change = difference(before[place], row)
        if change is not None:
            changed[str(at)] = change
    if not any(isinstance(part, list) for part in parts):
        return [after]
    whole = {} if parts == [[0, len(before)]] else {"of": parts}
    return {**whole, "at": changed} if changed else whole


def _name(row: Any) -> Any:
    """Return what names a row; whatever is alike in it is compared, so a wrong guess only makes a difference longer."""
    if not isinstance(row, dict):
        return repr(row)
    return tuple(repr(row.get(field)) for field in NAMING)
