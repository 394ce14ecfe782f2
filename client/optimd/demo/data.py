"""The digits that ship with scikit-learn: 1,797 images of 8 x 8 pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from optimd.demo.mlp import Array, Labels

HELD_OUT = 0.2
SPLIT_SEED = 0


@dataclass(frozen=True)
class Digits:
    """Pixels from 0 to 1, shape (n, 64), and labels; a fifth is held out."""

    train_x: Array
    train_labels: Labels
    test_x: Array
    test_labels: Labels


def load() -> Digits:
    """The same split every time, with every class in proportion."""
    x, labels = load_digits(return_X_y=True)
    train_x, test_x, train_labels, test_labels = train_test_split(
        (x / 16.0).astype(np.float32), labels, test_size=HELD_OUT, random_state=SPLIT_SEED, stratify=labels
    )
    return Digits(train_x, train_labels, test_x, test_labels)
