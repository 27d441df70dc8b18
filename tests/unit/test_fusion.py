import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.steps.fusion import Method, fuse, minmax, rrf

METHODS: tuple[Method, ...] = ("minmax", "rrf")
VECTOR, KEYWORD = {"a": 0.9, "b": 0.5, "c": 0.1}, {"b": 12.0, "d": 2.0}


def test_scores_are_stretched_and_added() -> None:
    found = fuse("minmax", {"vector": VECTOR, "keyword": KEYWORD}, {"vector": 1.0, "keyword": 2.0})
    assert [(hit.key, hit.score) for hit in found] == [("b", 2.5), ("a", 1.0), ("c", 0.0), ("d", 0.0)]
    assert [hit.parts for hit in found[:2]] == [{"vector": 0.5, "keyword": 12.0}, {"vector": 0.9}]


def test_ranks_are_turned_round_and_added() -> None:
    found = fuse("rrf", {"vector": VECTOR, "keyword": KEYWORD}, {"keyword": 0.5})
    assert {hit.key: hit.score for hit in found} == pytest.approx(
        {"a": 1 / 61, "b": 1 / 62 + 0.5 / 61, "c": 1 / 63, "d": 0.5 / 62}
    )
    assert [hit.key for hit in found] == ["b", "a", "c", "d"]


@pytest.mark.parametrize("method", METHODS)
def test_nothing_fuses_to_nothing(method: Method) -> None:
    assert fuse(method, {}, {}) == []
    assert fuse(method, {"vector": {}, "keyword": {}}, {}) == []


def test_one_or_equal_scores_are_the_best_there_are() -> None:
    assert minmax({"a": 3.0}) == {"a": 1.0}
    assert minmax({"a": -2.0, "b": -2.0}) == {"a": 1.0, "b": 1.0}


def test_equal_scores_rank_by_key() -> None:
    assert rrf({"b": 1.0, "a": 1.0}) == {"a": 1 / 61, "b": 1 / 62}


PARTS = st.dictionaries(
    st.sampled_from(["vector", "keyword"]),
    st.dictionaries(st.integers(0, 9), st.sampled_from([-1.0, 0.0, 0.5, 7.0])),
)


@pytest.mark.parametrize("method", METHODS)
@given(parts=PARTS)
def test_order_is_by_score_then_key_and_nothing_is_lost(
    method: Method, parts: dict[str, dict[int, float]]
) -> None:
    found = fuse(method, parts, {"vector": 0.7})
    assert [(-hit.score, hit.key) for hit in found] == sorted((-hit.score, hit.key) for hit in found)
    assert {(hit.key, name): score for hit in found for name, score in hit.parts.items()} == {
        (key, name): score for name, scores in parts.items() for key, score in scores.items()
    }
    turned = {name: dict(reversed(scores.items())) for name, scores in parts.items()}
    assert fuse(method, turned, {"vector": 0.7}) == found
