"""Any JSON, to be handed in where JSON is taken, and what is left of it where it is stored."""

from typing import Any

from hypothesis import strategies as st

TEXTS = st.text(max_size=12)
STORED_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
FINITE = st.booleans() | st.integers(-(2**70), 2**70) | st.floats(-1e300, 1e300)
NUMBERS = st.integers() | st.floats() | st.integers(-(10**400), 10**400)


def nested(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=6,
    )


ANYTHING = nested(st.none() | st.booleans() | NUMBERS | TEXTS, TEXTS)
VALUES = nested(st.none() | FINITE | TEXTS, TEXTS)
STORED = nested(st.none() | FINITE | STORED_TEXTS, STORED_TEXTS)
