"""The linear model: fitted by scikit-learn, kept as arrays and a JSON file, never as a pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.special import log_softmax

from flywheel.common.errors import StudentError

ARRAYS, WORDS = "linear.safetensors", "linear.json"
RARE_FROM = 1000  # training records; from here on, words that occur once are left out

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LinearModel:
    """TF-IDF weights and one row of coefficients for each class.

    Attributes:
        classes: K.
        words: words and word pairs: W.
        idf: of each: [W].
        coefficients, intercepts: of each class: [K, W] and [K].
        records: that it was fitted on.
        rounds: passes of the solver over them.
    """

    classes: tuple[str, ...]
    words: tuple[str, ...]
    idf: Floats
    coefficients: Floats
    intercepts: Floats
    records: int
    rounds: int
    device: str = "cpu"

    @property
    def parameters(self) -> int:
        """The numbers that it computes with."""
        return self.idf.size + self.coefficients.size + self.intercepts.size

    def log_probabilities(self, texts: Sequence[str]) -> Floats:
        """Return natural logarithms of the probabilities of each text's classes: [N, K]."""
        scores = self._vectorizer.transform(texts) @ self.coefficients.T + self.intercepts
        return np.asarray(log_softmax(scores, axis=1))

    def predict(self, texts: Sequence[str]) -> list[str]:
        """Return the likeliest class of each text."""
        return [self.classes[place] for place in self.log_probabilities(texts).argmax(axis=1)]

    def tokens(self, text: str) -> int:
        """Return how many words and word pairs of a text it reads."""
        return len(self._analyze(text))

    def save(self, folder: Path) -> None:
        """Write the model into a folder."""
        arrays = {"idf": self.idf, "coefficients": self.coefficients, "intercepts": self.intercepts}
        save_file(arrays, folder / ARRAYS)
        about = {"classes": self.classes, "records": self.records, "rounds": self.rounds, "words": self.words}
        (folder / WORDS).write_text(json.dumps(about, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> LinearModel:
        """Read a model that `save` wrote.

        Raises:
            StudentError: it is damaged.
        """
        try:
            about = json.loads((folder / WORDS).read_text(encoding="utf-8"))
            arrays = load_file(folder / ARRAYS)
            model = cls(
                tuple(about["classes"]),
                tuple(about["words"]),
                arrays["idf"],
                arrays["coefficients"],
                arrays["intercepts"],
                int(about["records"]),
                int(about["rounds"]),
            )
        except Exception as error:  # the libraries raise many kinds
            raise StudentError(f"{folder}: no linear student: {error}") from None
        shape = (len(model.classes), len(model.words))
        if model.coefficients.shape != shape or model.idf.shape != shape[1:]:
            raise StudentError(f"{folder}: {ARRAYS} and {WORDS} are of different models")
        return model

    @cached_property
    def _vectorizer(self) -> Any:
        # Imported here: scikit-learn takes 1.5 to 2.5 s.
        from sklearn.feature_extraction.text import TfidfVectorizer

        vocabulary = {word: place for place, word in enumerate(self.words)}
        vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), vocabulary=vocabulary)
        vectorizer.idf_ = self.idf
        return vectorizer

    @cached_property
    def _analyze(self) -> Any:
        return self._vectorizer.build_analyzer()


def fit(texts: Sequence[str], labels: Sequence[str]) -> LinearModel:
    """Fit the model.

    Args:
        labels: of the texts, two classes at least.

    Raises:
        ValueError: no text has a word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    rarest = 2 if len(texts) >= RARE_FROM else 1
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=rarest)
    model = LogisticRegression(C=10, solver="saga", tol=1e-2, random_state=0)
    model.fit(vectorizer.fit_transform(texts), labels)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one row, for the second of the two
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercepts = np.concatenate([np.zeros_like(intercepts), intercepts])
    return LinearModel(
        classes=tuple(str(name) for name in model.classes_),
        words=tuple(str(word) for word in vectorizer.get_feature_names_out()),
        idf=np.ascontiguousarray(vectorizer.idf_),
        coefficients=np.ascontiguousarray(coefficients),
        intercepts=np.ascontiguousarray(intercepts),
        records=len(texts),
        rounds=int(np.max(model.n_iter_)),
    )
