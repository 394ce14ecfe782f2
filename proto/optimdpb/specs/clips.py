"""Bounds on the combined gradient of a round, after the reduction and before weight decay."""

from __future__ import annotations

from dataclasses import dataclass

from optimdpb.specs.checks import check_positive


@dataclass(frozen=True)
class Clip:
    """Base of every bound."""


@dataclass(frozen=True)
class ClipGlobalNorm(Clip):
    """Scale the gradient by float32(norm_max / norm) where its Euclidean norm, over all trained tensors, exceeds it.

    torch's clip_grad_norm_ divides by norm + 1e-6 instead.
    """

    norm_max: float

    def __post_init__(self) -> None:
        check_positive(self, "norm_max")


@dataclass(frozen=True)
class ClipTensorNorm(Clip):
    """As ClipGlobalNorm, each tensor by its own norm."""

    norm_max: float

    def __post_init__(self) -> None:
        check_positive(self, "norm_max")


@dataclass(frozen=True)
class ClipValue(Clip):
    """Limit each element to [-value, value]."""

    value: float

    def __post_init__(self) -> None:
        check_positive(self, "value")
