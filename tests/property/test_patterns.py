"""Patterns over many names at once against Python's own matcher, one name at a time."""

from __future__ import annotations

import fnmatch

from hypothesis import given
from hypothesis import strategies as st
from optimdpb.specs import SGD, Group, JobSpec, Layout, Sync, Tensor
from optimdpb.specs.groups import group_of_tensors
from optimdpb.specs.patterns import Names

# Few of them, so that something matches; those with a meaning, and some of more than one byte.
CHARACTERS = "ab.-]![^é𝄞"
names = st.text(CHARACTERS, min_size=1, max_size=6)
patterns = st.text(CHARACTERS + "*?*?", min_size=1, max_size=8)


@given(st.lists(names, min_size=1, max_size=6), patterns)
def test_each_name_matches_as_it_does_alone(found: list[str], pattern: str) -> None:
    assert Names(found).matching(pattern).tolist() == [fnmatch.fnmatchcase(name, pattern) for name in found]


@given(st.text(min_size=1, max_size=8).filter(lambda text: "\0" not in text), st.text(min_size=1, max_size=5))
def test_characters_of_every_kind(name: str, pattern: str) -> None:
    """A pattern comes from strangers and may hold what no name does."""
    found = [name.encode("utf-8", "replace").decode(), "b"]
    assert Names(found).matching(pattern).tolist() == [fnmatch.fnmatchcase(name, pattern) for name in found]


@st.composite
def chosen(draw: st.DrawFn) -> tuple[Layout, tuple[Group, ...]]:
    kinds = st.sampled_from(("trainable", "trainable", "buffer"))
    tensor = st.builds(lambda name, ndim, kind: Tensor(name, (2,) * ndim, kind), names, st.integers(0, 3), kinds)
    tensors = draw(st.lists(tensor, min_size=1, max_size=6, unique_by=lambda tensor: tensor.name))
    bounds = st.tuples(st.none() | st.integers(0, 2), st.none() | st.integers(2, 3))
    groups = draw(
        st.lists(st.builds(lambda p, b: Group(p, ndim_min=b[0], ndim_max=b[1]), patterns, bounds), max_size=4)
    )
    return Layout(tuple(tensors)), tuple(groups)


def chooses(group: Group, tensor: Tensor) -> bool:
    """One tensor by one group, as the contract says it."""
    low, high = group.ndim_min or 0, 32 if group.ndim_max is None else group.ndim_max
    is_named = fnmatch.fnmatchcase(tensor.name, group.pattern)
    return tensor.kind == "trainable" and is_named and low <= len(tensor.shape) <= high


@given(chosen())
def test_the_first_group_that_chooses_a_tensor_has_it(job: tuple[Layout, tuple[Group, ...]]) -> None:
    layout, groups = job
    groups = tuple(group for group in groups if any(chooses(group, tensor) for tensor in layout.tensors))
    expected = tuple(
        next((place for place, group in enumerate(groups) if chooses(group, tensor)), None) for tensor in layout.tensors
    )
    assert group_of_tensors(layout, groups) == expected
    assert JobSpec(layout, SGD(0.1), Sync(1), groups=groups).tensor_groups == expected
