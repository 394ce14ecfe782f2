"""A network with one hidden layer and its gradient, by hand, in numpy.

h = max(0, x W1 + b1)        z = h W2 + b2        loss = mean of -log softmax(z)[label]
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Labels = NDArray[np.int64]
Parameters = dict[str, Array]

INPUTS, HIDDEN, CLASSES = 64, 128, 10


def init(seed: int) -> Parameters:
    """He-initialised weights and zero biases, float32."""
    rng = np.random.default_rng(seed)

    def weights(fan_in: int, fan_out: int) -> Array:
        return rng.standard_normal((fan_in, fan_out), np.float32) * np.float32(np.sqrt(2.0 / fan_in))

    return {
        "hidden.weight": weights(INPUTS, HIDDEN),
        "hidden.bias": np.zeros(HIDDEN, np.float32),
        "output.weight": weights(HIDDEN, CLASSES),
        "output.bias": np.zeros(CLASSES, np.float32),
    }


def backward(parameters: Parameters, x: Array, labels: Labels) -> tuple[float, Parameters]:
    """The mean loss of a batch, x of shape (batch, 64), and its gradient in the shape of the parameters."""
    batch = np.arange(len(x))
    hidden = np.maximum(x @ parameters["hidden.weight"] + parameters["hidden.bias"], 0)
    scores = hidden @ parameters["output.weight"] + parameters["output.bias"]
    scores -= scores.max(axis=1, keepdims=True)
    probabilities = np.exp(scores)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    loss = float(-np.log(np.maximum(probabilities[batch, labels], 1e-12)).mean())

    d_scores = probabilities
    d_scores[batch, labels] -= 1
    d_scores /= len(x)
    d_hidden = (d_scores @ parameters["output.weight"].T) * (hidden > 0)
    return loss, {
        "hidden.weight": x.T @ d_hidden,
        "hidden.bias": d_hidden.sum(axis=0),
        "output.weight": hidden.T @ d_scores,
        "output.bias": d_scores.sum(axis=0),
    }


def accuracy(parameters: Parameters, x: Array, labels: Labels) -> float:
    """Share of rows whose largest score is their label's."""
    hidden = np.maximum(x @ parameters["hidden.weight"] + parameters["hidden.bias"], 0)
    scores = hidden @ parameters["output.weight"] + parameters["output.bias"]
    return float((scores.argmax(axis=1) == labels).mean())
