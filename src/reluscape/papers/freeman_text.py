"""Generated text, which stands in for the Penn Treebank in `reproduce freeman`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Words of the vocabulary, and of a sentence.
WORDS, LENGTH = 50, 21
#: Words that may follow a pair of words.
FOLLOWERS = 4


def generated_text(sentences: int) -> NDArray[np.int64]:
    """Sentences of a random grammar of the second order, (sentences, LENGTH), always the same ones.

    After a word and the one before it (of which its remainder by 5 counts) one of four words follows,
    with probabilities 0.55, 0.25, 0.15 and 0.05: the best prediction has a perplexity of 3.0, of 3.5
    with the second word, which cannot be foretold.
    """
    rng = np.random.default_rng(2016)
    followers = rng.integers(0, WORDS, (WORDS, 5, FOLLOWERS))
    words = np.empty((sentences, LENGTH), dtype=np.int64)
    words[:, :2] = rng.integers(0, WORDS, (sentences, 2))
    for at in range(2, LENGTH):
        choice = rng.choice(FOLLOWERS, sentences, p=[0.55, 0.25, 0.15, 0.05])
        words[:, at] = followers[words[:, at - 1], words[:, at - 2] % 5, choice]
    return words
