"""Errors keep their type, text and attributes in copies, in other processes and on the wire."""

from __future__ import annotations

import concurrent.futures
import copy
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import optimd
import pytest
from optimdpb.errors import STATUS_OF_REASON, OptimdError, Refused

from tests.support.errors import LOCAL, attributes, from_wire, raise_error

WAYS: dict[str, Callable[[Any], Any]] = {
    **{
        f"pickle {protocol}": lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
REFUSALS = [name for name, error in LOCAL.items() if isinstance(error, Refused)]


def subclasses(error_class: type[OptimdError]) -> Iterator[type[OptimdError]]:
    yield error_class
    for derived in error_class.__subclasses__():
        yield from subclasses(derived)


def check_same(error: BaseException, expected: OptimdError) -> None:
    assert type(error) is type(expected)
    assert (str(error), error.args) == (str(expected), expected.args)
    assert attributes(error) == attributes(expected)


def test_the_table_has_every_error() -> None:
    ours = (error for error in subclasses(OptimdError) if error.__module__.partition(".")[0] in ("optimd", "optimdpb"))
    assert {error.__name__ for error in ours} == set(LOCAL)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", LOCAL)
def test_an_error_survives_being_copied(name: str, way: str) -> None:
    check_same(WAYS[way](LOCAL[name]), LOCAL[name])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reason", STATUS_OF_REASON)
def test_an_error_from_the_wire_survives_being_copied(reason: str, way: str) -> None:
    error = Refused.from_reason(reason, "the text", {"field": "a.b"})
    check_same(WAYS[way](error), error)


@pytest.mark.parametrize("name", REFUSALS)
def test_an_error_from_the_wire_has_the_attributes_of_a_local_one(name: str) -> None:
    error = LOCAL[name]
    assert isinstance(error, Refused)
    check_same(from_wire(error), error)


def test_what_a_user_adds_to_an_error_stays() -> None:
    error = optimd.InvalidSpec("lr", "expected a number")
    error.add_note("in rank 3")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["in rank 3"]


def test_a_refusal_without_metadata_has_an_empty_field() -> None:
    error = Refused.from_reason("INVALID_SPEC", "the text", {})
    assert isinstance(error, optimd.InvalidSpec)
    assert (error.field, error.problem) == ("", "the text")


@pytest.fixture(scope="module")
def pool() -> Iterator[Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool


@pytest.fixture(scope="module")
def executor() -> Iterator[concurrent.futures.Executor]:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        yield executor


@pytest.mark.parametrize("wire", [False, True])
@pytest.mark.parametrize("name", LOCAL)
def test_an_error_comes_out_of_a_pool(name: str, wire: bool, pool: Any) -> None:
    with pytest.raises(type(LOCAL[name])) as caught:
        pool.apply_async(raise_error, (name,), {"wire": wire}).get(30)
    check_same(caught.value, LOCAL[name])


@pytest.mark.parametrize("wire", [False, True])
@pytest.mark.parametrize("name", LOCAL)
def test_an_error_comes_out_of_an_executor(name: str, wire: bool, executor: concurrent.futures.Executor) -> None:
    with pytest.raises(type(LOCAL[name])) as caught:
        executor.submit(raise_error, name, wire=wire).result(30)
    check_same(caught.value, LOCAL[name])


SHIPPED: dict[str, Callable[[Any], Any]] = {"pickle": pickle.dumps, "copy": copy.copy, "deepcopy": copy.deepcopy}


@pytest.mark.parametrize("way", SHIPPED)
def test_a_worker_that_was_never_used_says_to_connect_where_it_is_used(way: str) -> None:
    worker = optimd.connect("127.0.0.1:1", job="j", worker="w0")
    try:
        with pytest.raises(TypeError, match=r"cannot be pickled or copied: call optimd\.connect\(.*inside the task"):
            SHIPPED[way]({"captured": worker} if way != "copy" else worker)
    finally:
        worker.close()
