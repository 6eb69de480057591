"""How similar two texts are: the cosine of their TF-IDF vectors, with no model.

Words and pairs of words count, sublinearly, the more the rarer they are in the teacher's answers (Salton and
Buckley, Term-weighting approaches in automatic text retrieval, 1988). The weights come from the teacher's
texts alone, so that one student's answers do not change another's score; a word that the teacher never writes
has the highest weight and pulls the similarity down. scikit-learn's TfidfVectorizer leaves such words out: an
answer of one right word among invented ones would be as good as the right one.
"""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

# Numbers and names stay whole: in an answer they are what matters.
_WORD = re.compile(r"\w+(?:[.,'’&-]\w+)*")

Vector = dict[str, float]


class Similarity:
    """Similarities to texts of one kind.

    Args:
        texts: that say how rare a word is.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._count = len(texts)
        self._seen = Counter(term for text in texts for term in set(_terms(text)))

    def of(self, one: str, other: str) -> float:
        """Return the similarity of two texts, in [0, 1].

        Texts without a word are similar to nothing, but equal ones are 1 whatever they are.
        """
        if one.split() == other.split():
            return 1.0
        left, right = self._vector(one), self._vector(other)
        # Of norm 1 up to rounding.
        return min(1.0, sum(weight * right.get(term, 0.0) for term, weight in left.items()))

    def nearest(self, questions: Sequence[str], pool: Sequence[str], most: int) -> list[list[int]]:
        """Return for each question the places of the most similar texts of a pool, the most similar first.

        Of equally similar ones the first in the pool comes first.
        """
        places: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        for place, text in enumerate(pool):
            for term, weight in self._vector(text).items():
                places[term].append((place, weight))
        found = []
        for question in questions:
            scores = [0.0] * len(pool)
            for term, weight in self._vector(question).items():
                for place, other in places.get(term, ()):
                    scores[place] += weight * other
            found.append(heapq.nsmallest(most, range(len(pool)), key=lambda at: (-scores[at], at)))
        return found

    def _vector(self, text: str) -> Vector:
        counts = Counter(_terms(text))
        weights = {
            term: (1 + math.log(count)) * (math.log((1 + self._count) / (1 + self._seen[term])) + 1)
            for term, count in counts.items()
        }
        norm = math.sqrt(sum(weight * weight for weight in weights.values()))
        return {term: weight / norm for term, weight in weights.items()}


def _terms(text: str) -> list[str]:
    """Return the words of a text and the pairs of neighbours, without case."""
    words = _WORD.findall(text.casefold())
    return words + [f"{one} {other}" for one, other in pairwise(words)]
