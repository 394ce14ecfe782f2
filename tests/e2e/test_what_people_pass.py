"""What people pass for parameters, buffers and gradients: taken as it is meant, or refused with a remedy that works."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import optimd
import pytest
from numpy.typing import NDArray
from optimd_server.runtime import ServerConfig

from tests.support.servers import ThreadServer

F32 = np.float32
GOOD: NDArray[np.float32] = np.arange(6, dtype=F32).reshape(2, 3) / 4
READ_ONLY = GOOD.copy()
READ_ONLY.flags.writeable = False
WIDE = np.stack([GOOD, GOOD], axis=2)[:, :, 0]
MASKED = np.ma.MaskedArray(GOOD, mask=GOOD == 0.25)

_numbers = itertools.count()


class Tensor:
    """What of torch's tensors a program can do without torch: no __array__ with a graph, no numpy() in bfloat16."""

    def __init__(self, values: Any, dtype: str = "torch.float32", where: str = "cuda:0 with a graph") -> None:
        self.values, self.dtype, self.where = values, dtype, where

    def detach(self) -> Tensor:
        return Tensor(self.values, self.dtype, self.where.removesuffix(" with a graph"))

    def float(self) -> Tensor:
        return Tensor(self.values, "torch.float32", self.where)

    def cpu(self) -> Tensor:
        return Tensor(self.values, self.dtype, self.where.replace("cuda:0", "cpu"))

    def numpy(self) -> Any:
        if self.where != "cpu" or self.dtype == "torch.bfloat16":
            raise TypeError(f"cannot be converted: {self.where}, {self.dtype}")
        return self.values


class JaxLike:
    """An array of another library that numpy can read."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.asarray(self.values, dtype)


def of_torch(dtype: str) -> Any:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    return torch.nn.Parameter(torch.from_numpy(GOOD.copy()).to(getattr(torch, dtype)))


def of_jax(dtype: str) -> Any:
    numpy = pytest.importorskip("jax.numpy", reason="jax is not installed")
    return numpy.asarray(GOOD, dtype)


def of_ml_dtypes(name: str) -> Any:
    return GOOD.astype(getattr(pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed"), name))


class Row(NamedTuple):
    """value: makes what is passed. cast: whether cast_to_float32 is needed, None where nothing helps but the remedy.

    says: what the refusal names beside the tensor. remedy: what it says to pass, None for nothing. means: the values.
    """

    name: str
    value: Callable[[], Any]
    cast: bool | None = False
    says: str = ""
    remedy: Callable[[Any], Any] | None = None
    means: Any = GOOD


def as_is(name: str, value: Any, means: Any = GOOD) -> Row:
    return Row(name, lambda: value, means=means)


def to_cast(name: str, value: Callable[[], Any], got: str, means: Any = GOOD) -> Row:
    says = rf"expected dtype float32, got {got}: pass its \.astype\(np\.float32\), or give cast_to_float32=True"
    return Row(name, value, True, says, lambda given: given.astype(F32), means)


ROWS = [
    as_is("float32", GOOD),
    as_is("Fortran order", np.asfortranarray(GOOD)),
    as_is("every other column", WIDE),
    as_is("transposed", np.ascontiguousarray(GOOD.T).T),
    as_is("backwards", np.ascontiguousarray(GOOD[::-1])[::-1]),
    as_is("read-only", READ_ONLY),
    as_is("broadcast", np.broadcast_to(F32(2.0), (2, 3)), np.full((2, 3), 2.0)),
    as_is("memory of a file", np.frombuffer(GOOD.tobytes(), F32).reshape(2, 3)),
    as_is("0-d", np.array(1.5, F32), np.array(1.5)),
    as_is("a numpy scalar", F32(1.5), np.array(1.5)),
    as_is("empty", np.zeros((0, 4), F32), np.zeros((0, 4))),
    as_is("denormal", np.full(3, 1e-44, F32), np.full(3, F32(1e-44))),
    as_is("32 dimensions", np.ones((1,) * 32, F32), np.ones((1,) * 32)),
    to_cast("float64", lambda: GOOD.astype(np.float64), "float64"),
    to_cast("a float64 scalar", lambda: np.float64(0.5), "float64", np.array(0.5)),
    to_cast("float16", lambda: GOOD.astype(np.float16), "float16"),
    to_cast("bfloat16", lambda: of_ml_dtypes("bfloat16"), "bfloat16"),
    to_cast("float8", lambda: of_ml_dtypes("float8_e4m3fn"), "float8_e4m3fn"),
    to_cast("long double", lambda: GOOD.astype(np.longdouble), r"\S+"),
    to_cast("big-endian", lambda: GOOD.astype(">f4"), ">f4"),
    to_cast("float64 in Fortran order", lambda: np.asfortranarray(GOOD, np.float64), "float64"),
    to_cast("empty float64", lambda: np.zeros((3, 0)), "float64", np.zeros((3, 0))),
    to_cast("int64 counter", lambda: np.array(2**24), "int64", np.array(2.0**24)),
    to_cast("negative int32", lambda: np.array([-5, 7], np.int32), "int32", np.array([-5.0, 7.0])),
    to_cast("uint8", lambda: np.array([0, 255], np.uint8), "uint8", np.array([0.0, 255.0])),
    to_cast("bool", lambda: np.array([True, False]), "bool", np.array([1.0, 0.0])),
    Row("a masked array", lambda: MASKED, None, r"got a masked one: pass its \.filled\(0\.0\)",
        lambda given: given.filled(0.0), MASKED.filled(0.0)),
    Row("a list", GOOD.tolist, None, r"got list: pass np\.asarray\(it, np\.float32\)", lambda it: np.asarray(it, F32)),
    Row("a float", lambda: 1.5, None, r"got float: pass np\.asarray", lambda it: np.asarray(it, F32), np.array(1.5)),
    Row("like torch", lambda: Tensor(GOOD), None, r"got Tensor: pass its \.detach\(\)\.cpu\(\)\.numpy\(\)",
        lambda its: its.detach().cpu().numpy()),
    Row("like torch in bfloat16", lambda: Tensor(GOOD, "torch.bfloat16"), None,
        r"got Tensor: pass its \.detach\(\)\.float\(\)\.cpu\(\)\.numpy\(\)",
        lambda its: its.detach().float().cpu().numpy()),
    Row("torch", lambda: of_torch("float32"), None, r"got Parameter: pass its \.detach\(\)\.cpu\(\)\.numpy\(\)",
        lambda its: its.detach().cpu().numpy()),
    Row("torch in bfloat16", lambda: of_torch("bfloat16"), None,
        r"got Parameter: pass its \.detach\(\)\.float\(\)\.cpu\(\)\.numpy\(\)",
        lambda its: its.detach().float().cpu().numpy()),
    Row("like jax", lambda: JaxLike(GOOD), None, r"got JaxLike: pass np\.asarray\(it, np\.float32\)",
        lambda it: np.asarray(it, F32)),
    Row("jax", lambda: of_jax("float32"), None, r"got \w+: pass np\.asarray\(it", lambda it: np.asarray(it, F32)),
    Row("jax in bfloat16", lambda: of_jax("bfloat16"), None, r"got \w+: pass np", lambda it: np.asarray(it, F32)),
    Row("nested", lambda: {"kernel": GOOD}, None, "got dict: make one dict of nested ones, with names such as",
        lambda given: given["kernel"]),
    Row("None", lambda: None, None, r"got NoneType: pass np\.zeros\(shape, np\.float32\) for a gradient",
        lambda _: np.zeros((2, 3), F32), np.zeros((2, 3))),
    Row("an integer too large", lambda: np.array([3, 2**24 + 1]), None,
        r"got int64.*cast_to_float32|integers up to 2\^24.*got 16777217: leave it out"),
    Row("a negative one", lambda: np.array([-(2**63), 1]), None, r"got int64|got -9223372036854775808: leave it out"),
    Row("an unsigned one", lambda: np.array(2**64 - 1, np.uint64), None, "got uint64|got 18446744073709551615"),
    Row("complex", lambda: GOOD.astype(complex), None, "got complex128: only real numbers"),
    Row("objects", lambda: GOOD.astype(object), None, "got object: only real numbers"),
    Row("text", lambda: np.array(["a"]), None, "got <U1: only real numbers"),
    Row("dates", lambda: np.array(["2026-11-25"], "M8[D]"), None, r"got datetime64\[D\]: only real numbers"),
    Row("a set", lambda: {1.0}, None, "expected a numpy array, got set"),
]  # fmt: skip

CASES = [
    pytest.param(row, cast, id=f"{row.name}{', cast' if cast else ''}")
    for row in ROWS for cast in (False, True)
]  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadServer]:
    with ThreadServer(ServerConfig(threads=2, jobs_max=1000)) as server:
        yield server


@pytest.fixture
def worker(server: ThreadServer) -> Iterator[optimd.Worker]:
    with optimd.connect(server.address, job=f"j{next(_numbers)}", worker="w0") as worker:
        yield worker


def ensure(worker: optimd.Worker, value: Any, *, cast: bool, **others: Any) -> None:
    start = {"w": value, **others}
    worker.ensure_job(start, optimd.SGD(1.0), optimd.Sync(1), buffers=[*others], cast_to_float32=cast)


def check(row: Row, cast: bool, error: type[optimd.Refused], give: Callable[[Any], Any]) -> None:
    """Give a row's value; where it is refused, give what the message says."""
    value = row.value()
    if row.cast is not None and row.cast <= cast:
        seen = give(value)
    else:
        with pytest.raises(error, match=rf"'w': .*({row.says})") as caught:
            give(value)
        assert isinstance(caught.value, ValueError)
        assert caught.value.metadata["tensor"] == "w"
        if row.remedy is None:
            return
        seen = give(row.remedy(value))
    assert (seen.shape, seen.dtype) == (np.shape(row.means), F32)
    assert np.array_equal(seen, row.means)


@pytest.mark.parametrize(("row", "cast"), CASES)
def test_as_a_parameter(row: Row, cast: bool, worker: optimd.Worker) -> None:
    def give(value: Any) -> Any:
        ensure(worker, value, cast=cast)
        return worker.pull()["w"]

    check(row, cast, optimd.InvalidLayout, give)


@pytest.mark.parametrize("method", ["push", "step"])
@pytest.mark.parametrize(("row", "cast"), CASES)
def test_as_a_gradient(row: Row, cast: bool, method: str, worker: optimd.Worker) -> None:
    def give(value: Any) -> Any:
        worker.pull()
        assert getattr(worker, method)({"w": value}).status == "applied"
        return -worker.pull()["w"]

    ensure(worker, np.zeros(np.shape(row.means), F32), cast=cast)
    check(row, cast, optimd.InvalidGradient, give)


@pytest.mark.parametrize(("row", "cast"), CASES)
def test_as_the_value_of_a_buffer(row: Row, cast: bool, worker: optimd.Worker) -> None:
    start = {"v": np.zeros(1, F32), "w": np.ones(np.shape(row.means), F32)}

    def give(value: Any) -> Any:
        worker.pull()
        return worker.step({"v": np.zeros(1, F32), "w": value}).parameters["w"]

    worker.ensure_job(start, optimd.SGD(1.0), optimd.Sync(1), buffers=["w"], cast_to_float32=cast)
    check(row, cast, optimd.InvalidGradient, give)


def test_there_are_enough_rows() -> None:
    assert len(ROWS) >= 40


NOT_FINITE = {
    "-inf": np.array([[0, -np.inf], [0, 0]], F32),
    "inf": np.array([np.inf], F32),
    "nan": np.array([np.nan], F32),
    "1e+300": np.array([1e300]),
    "inf in float16": np.array([np.inf], np.float16),
    "NaN in a 0-d array": np.array(np.nan, F32),
}


@pytest.mark.parametrize("name", NOT_FINITE)
@pytest.mark.parametrize("kind", ["parameter", "buffer"])
def test_parameters_that_are_not_finite_are_refused_by_name(name: str, kind: str, worker: optimd.Worker) -> None:
    start = {"v": np.zeros(1, F32), "mask": NOT_FINITE[name]}
    buffers = ["mask"] if kind == "buffer" else []
    with pytest.raises(
        optimd.Refused, match=rf"'mask': .*got {name[:3].lower()}.*leave masks .* out".replace("+", r"\+")
    ) as caught:
        worker.ensure_job(start, optimd.SGD(1.0), optimd.Sync(1), buffers=buffers, cast_to_float32=True)
    assert (caught.value.reason, caught.value.metadata["tensor"]) == ("NON_FINITE_PARAMETERS", "mask")
    worker.ensure_job({"v": start["v"]}, optimd.SGD(1.0), optimd.Sync(1), cast_to_float32=True)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("name", NOT_FINITE)
def test_a_gradient_that_is_not_finite_is_rejected(name: str, worker: optimd.Worker) -> None:
    ensure(worker, np.zeros(NOT_FINITE[name].shape, F32), cast=True)
    worker.pull()
    result = worker.push({"w": NOT_FINITE[name]})
    assert (result.status, result.reason) == ("rejected", "non_finite")


NAMES: list[tuple[Any, str]] = [
    ("w", ""),
    ("layer.0/weight:0 [é]", ""),
    ("n" * 200, ""),
    (np.str_("w"), ""),
    (
        ("Dense_0", "kernel"),
        r"tensor \('Dense_0', 'kernel'\): expected a string as its name, got tuple: join its parts",
    ),
    (0, r"tensor 0: expected a string as its name, got int: pass str\(key\)"),
    (None, "tensor None: expected a string as its name, got NoneType"),
    (b"w", "tensor b'w': expected a string as its name, got bytes"),
    ("\udc80", r"tensor name '\\udc80': expected text that UTF-8 can hold"),
    ("", "tensor name '': expected 1 to 200 bytes without control characters, got 0 bytes"),
    ("n" * 201, "expected 1 to 200 bytes without control characters, got 201 bytes"),
    ("é" * 101, "expected 1 to 200 bytes without control characters, got 202 bytes"),
    ("n" * 10**6, "expected 1 to 200 bytes without control characters, got 1000000 bytes"),
    ("a\nb", r"tensor name 'a\\nb': expected 1 to 200 bytes without control characters"),
]


@pytest.mark.parametrize(("name", "says"), NAMES, ids=[repr(name)[:20] for name, _ in NAMES])
def test_as_a_name(name: Any, says: str, worker: optimd.Worker) -> None:
    if not says:
        worker.ensure_job({name: GOOD}, optimd.SGD(1.0), optimd.Sync(1))
        worker.pull()
        assert np.array_equal(worker.step({name: GOOD}).parameters[name], 0 * GOOD)
        return
    with pytest.raises(optimd.InvalidLayout, match=says) as caught:
        worker.ensure_job({name: GOOD}, optimd.SGD(1.0), optimd.Sync(1))
    assert len(str(caught.value)) < 1000
    worker.ensure_job({"'/'.join": GOOD}, optimd.SGD(1.0), optimd.Sync(1))


GRADIENTS: list[tuple[str, Any, str]] = [
    ("missing", {"w": GOOD}, r"missing 'v' \(pass zeros where there is no gradient, the value of a buffer\)"),
    ("unknown", {"w": GOOD, "v": GOOD, "h.weight": GOOD}, "unknown 'h.weight'$"),
    ("keys of a pytree", {"w": GOOD, ("a", "v"): GOOD}, r"missing 'v'; unknown \('a', 'v'\)"),
    ("another shape", {"w": GOOD, "v": GOOD.T}, r"'v': expected shape \(2, 3\), got \(3, 2\)"),
    ("no axis", {"w": GOOD, "v": GOOD.reshape(-1)}, r"'v': expected shape \(2, 3\), got \(6,\)"),
    ("a list", [GOOD, GOOD], "expected a dict of arrays by tensor, got list"),
    ("None", None, "expected a dict of arrays by tensor, got NoneType"),
]


@pytest.mark.parametrize(("gradients", "says"), [row[1:] for row in GRADIENTS], ids=[row[0] for row in GRADIENTS])
def test_as_all_gradients(gradients: Any, says: str, worker: optimd.Worker) -> None:
    ensure(worker, GOOD, cast=True, v=GOOD)
    worker.pull()
    with pytest.raises(optimd.InvalidGradient, match=says):
        worker.push(gradients)
    assert worker.step({"v": GOOD, "w": GOOD}).status == "applied", "in any order"


class Module:
    """What of a module of torch names its parameters."""

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        yield "w", Tensor(GOOD)


@pytest.mark.parametrize(
    ("made", "names"),
    [
        (lambda model: model, {"model": Module()}),
        (lambda model: model.named_parameters(), {"model": Module()}),
        (lambda it: it, {"it": [GOOD, GOOD]}),
        (lambda it: it, {"it": (GOOD,)}),
        (lambda it: it, {"it": GOOD}),
    ],
)
def test_parameters_that_are_no_dict_are_refused_with_one_to_pass(
    made: Callable[[Any], Any], names: dict[str, Any], worker: optimd.Worker
) -> None:
    with pytest.raises(optimd.InvalidLayout, match="expected a dict of arrays by name, got") as refused:
        worker.ensure_job(made(*names.values()), optimd.SGD(1.0), optimd.Sync(1))
    remedy = str(refused.value).partition(": pass ")[2]
    worker.ensure_job(eval(remedy, dict(names)), optimd.SGD(1.0), optimd.Sync(1))
    assert all(np.array_equal(array, GOOD) for array in worker.pull().values())


@pytest.mark.parametrize("rule", ["adam", optimd.Adam, {"lr": 0.1}, None])
@pytest.mark.parametrize("model", ["sync", optimd.Sync, 3, None])
def test_a_rule_and_a_model_of_another_kind_are_refused_with_examples(
    rule: Any, model: Any, worker: optimd.Worker
) -> None:
    with pytest.raises(optimd.InvalidSpec, match=r"optimizer: expected a rule such as optimd\.Adam\(lr=1e-3\), got"):
        worker.ensure_job({"w": GOOD}, rule, optimd.Sync(1))
    expected = r"consistency: expected optimd\.Sync\(workers\) or optimd\.Async\(\), got"
    with pytest.raises(optimd.InvalidSpec, match=expected):
        worker.ensure_job({"w": GOOD}, optimd.Adam(lr=1e-3), model)


def test_who_has_not_asked_for_the_cast_is_told_how_to(server: ThreadServer, worker: optimd.Worker) -> None:
    ensure(worker, GOOD, cast=False)
    with optimd.connect(server.address, job=worker.job, worker="w1") as other:
        other.pull()
        with pytest.raises(optimd.InvalidGradient, match=r"'w'.*float64.*cast_to_float32=True to ensure_job\(\)"):
            other.push({"w": GOOD.astype(np.float64)})


class Loss(Tensor):
    """Warns, as torch does, where it is converted with its graph."""

    def detach(self) -> Loss:
        return Loss(self.values, where="cpu")

    def __float__(self) -> float:
        assert self.where == "cpu"
        return float(self.values)


def loss_of_torch() -> Any:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    return torch.ones(1, requires_grad=True) * 0.5


LOSSES: dict[str, Callable[[], Any]] = {
    "a float": lambda: 0.5,
    "a numpy scalar": lambda: F32(0.5),
    "0-d": lambda: np.array(0.5),
    "like torch": lambda: Loss(0.5),
    "torch": loss_of_torch,
}


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weight", [3, np.int64(3), F32(3), np.array(3)], ids=["int", "int64", "float32", "0-d"])
def test_as_loss_and_weight(loss: str, weight: Any, worker: optimd.Worker) -> None:
    ensure(worker, GOOD, cast=False)
    worker.pull()
    assert worker.push({"w": GOOD}, weight=weight, loss=LOSSES[loss]()).status == "applied"
    assert worker.status().loss == 0.5
