import math
import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.steps.bm25 import K1, B, Corpus, Fetched, Scored, choose, idf, scored
from worker.steps.postings import Words, invert
from worker.steps.terms import Vocabulary

Texts = dict[int, list[str]]


def fetched(texts: Texts, query: Sequence[tuple[tuple[str, ...], float]]) -> list[Fetched]:
    vocabulary = Vocabulary()
    words = [
        Words(number, "none", np.array([vocabulary.number(term) for term in terms], np.uint32))
        for number, terms in texts.items()
    ]
    rows = list(invert(words, vocabulary).rows())
    random.Random(1).shuffle(rows)
    return [
        Fetched(weight, len(terms), [(row.block, row.entries) for row in rows if row.term in terms])
        for terms, weight in query
    ]


def corpus_of(texts: Texts) -> Corpus:
    return Corpus(len(texts), sum(map(len, texts.values())))


def reference(texts: Texts, query: Sequence[tuple[tuple[str, ...], float]]) -> dict[int, float]:
    """The formula, word by word and chunk by chunk."""
    average = sum(map(len, texts.values())) / len(texts)
    scores: dict[int, float] = {}
    for terms, weight in query:
        times = {n: sum(Counter(text)[term] for term in terms) for n, text in texts.items()}
        df = sum(count > 0 for count in times.values())
        for n, count in times.items():
            if count:
                rarity = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
                length = 1 - B + B * len(texts[n]) / average
                scores[n] = scores.get(n, 0) + weight * rarity * count / (count + K1 * length)
    return scores


def assert_same(found: Scored, expected: dict[int, float]) -> None:
    assert found.numbers.tolist() == sorted(expected)
    best = found.best(len(expected) + 1)
    assert [score for _, score in best] == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-9)
    assert dict(best) == pytest.approx(expected, abs=1e-9)


NEAR, FAR = st.integers(1, 200_000), st.integers(1, 1 << 45)
TEXT = st.lists(st.sampled_from("abcdefgh"), max_size=20)
QUERY = st.lists(
    st.tuples(
        st.lists(st.sampled_from("abcdez"), min_size=1, max_size=3, unique=True).map(tuple),
        st.sampled_from([0.5, 1, 2]),
    ),
    max_size=5,
)


@given(st.one_of(st.dictionaries(NEAR, TEXT, min_size=1), st.dictionaries(FAR, TEXT, min_size=1)), QUERY)
def test_scores_are_those_of_the_formula(texts: Texts, query: list[tuple[tuple[str, ...], float]]) -> None:
    """Numbers that lie near each other are added up in one way, those far apart in another."""
    assert_same(scored(corpus_of(texts), fetched(texts, query)), reference(texts, query))


def zipf(count: int, seed: int) -> Texts:
    rng = random.Random(seed)
    names, weights = [f"w{n}" for n in range(500)], [1 / (n + 1) for n in range(500)]
    return {60_000 + 7 * n: rng.choices(names, weights, k=rng.randint(5, 120)) for n in range(count)}


def test_scores_of_many_chunks() -> None:
    texts = zipf(3000, 1)
    query = [((f"w{n}",), 1.0) for n in (0, 3, 50, 400)]
    assert_same(scored(corpus_of(texts), fetched(texts, query)), reference(texts, query))


def test_order_does_not_depend_on_the_order_of_rows() -> None:
    texts = zipf(500, 2)
    words = fetched(texts, [(("w1",), 1.0), (("w2", "w3"), 1.0)])
    turned = [word._replace(rows=list(reversed(word.rows))) for word in words]
    assert scored(corpus_of(texts), words).best(50) == scored(corpus_of(texts), turned).best(50)


def test_equal_scores_are_in_order_of_number() -> None:
    texts = {n: ["a"] for n in (900_000, 5, 70_000, 6)}
    assert [n for n, _ in scored(corpus_of(texts), fetched(texts, [(("a",), 1.0)])).best(3)] == [5, 6, 70_000]


def test_only_what_is_allowed_is_given() -> None:
    texts = zipf(300, 3)
    words = fetched(texts, [(("w0",), 1.0), (("w5",), 1.0)])
    allowed = np.array(sorted(texts)[::7], np.int64)
    found = scored(corpus_of(texts), words)
    every = [hit for hit in found.best(len(texts)) if hit[0] in set(allowed.tolist())]
    assert found.best(10, allowed) == every[:10]
    assert found.best(10, np.empty(0, np.int64)) == []


def test_scores_can_be_asked_for() -> None:
    texts = {1: ["a"], 70_000: ["a", "b"], 5: ["b"]}
    found = scored(corpus_of(texts), fetched(texts, [(("a",), 1.0)]))
    known = dict(found.best(10))
    assert found.of([70_000, 5, 1, 2, 999_999_999, 0]) == [known[70_000], 0, known[1], 0, 0, 0]
    assert found.of([]) == []


@pytest.mark.parametrize("words", [[], [Fetched(1, 1, [])], [Fetched(1, 1, []), Fetched(1, 2, [])]])
def test_words_that_nobody_has_find_nothing(words: list[Fetched]) -> None:
    found = scored(Corpus(0, 0), words)
    assert found.best(10) == []
    assert found.of([1]) == [0]


def test_statistics_older_than_the_postings_do_no_harm() -> None:
    texts = {n: ["a"] * n for n in range(1, 20)}
    found = scored(Corpus(3, 10), fetched(texts, [(("a",), 1.0)]))
    assert all(score > 0 for _, score in found.best(20))
    assert idf(10, 3) > 0


@pytest.mark.parametrize(
    ("frequencies", "chunks", "most", "kept"),
    [
        ([], 100, 10, []),
        ([0, 0], 100, 10, [0, 1]),
        ([50, 5, 0, 4], 1000, 10, [1, 2, 3]),
        ([5, 4, 3], 1000, 8, [1, 2]),
        ([900], 1000, 10, [0]),
        ([90_000, 10], 100_000, 10**9, [1]),
        ([90_000, 0], 100_000, 10**9, [0, 1]),
        ([90_000, 80_000], 100_000, 10**9, [1]),
        ([900, 10], 1000, 10**9, [0, 1]),
    ],
)
def test_the_rarest_words_are_read(frequencies: list[int], chunks: int, most: int, kept: list[int]) -> None:
    choice = choose(frequencies, chunks, most)
    assert choice.kept == kept
    assert sorted([*choice.kept, *choice.left_out]) == list(range(len(frequencies)))
