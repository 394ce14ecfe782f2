"""A worker process for tests that kill, stop and double it: trains on digits and writes down every push it sends."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optimd
from numpy.typing import NDArray
from optimd.demo import data
from optimdpb.v1 import optimd_pb2 as pb

from tests.support.calls import RawClient

JOB = "chaos"
BATCH = 32
Key = tuple[str, int, int]


class NotedTransport:
    """A worker's transport that appends a line for each push sent and each outcome told."""

    def __init__(self, inner: Any, path: Path) -> None:
        self._inner = inner
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def call(self, method: str, request: Any, timeout_s: float) -> Any:
        answer = self._inner.call(method, request, timeout_s)
        if method == "AwaitOutcome":
            self._told(request, answer)
        return answer

    def push(self, header: Any, flat: Any, timeout_s: float) -> Any:
        self._note("sent", header)
        answer = self._inner.push(header, flat, timeout_s)
        self._told(header, answer)
        return answer

    def step(self, header: Any, flat: Any, timeout_s: float) -> Any:
        self._note("sent", header)
        answer, parameters = self._inner.step(header, flat, timeout_s)
        self._told(header, answer)
        return answer, parameters

    def _told(self, header: Any, answer: Any) -> None:
        if answer.state == pb.PUSH_STATE_DONE:
            self._note(pb.OutcomeStatus.Name(answer.outcome.status).removeprefix("OUTCOME_STATUS_").lower(), header)

    def _note(self, what: str, header: Any) -> None:
        os.write(self._file, f"{what} {header.worker} {header.epoch} {header.seq}\n".encode())


@dataclass(frozen=True)
class Report:
    """How a worker fared. stall_s: the longest time between two answers; ended: "finished", "left" or an error."""

    name: str
    steps: int
    stall_s: float
    ended: str


class ChaosWorker:
    """Trains softmax regression; for use as a Ray actor with two threads, so that leave() gets through."""

    def __init__(self, address: str, name: str, notes: Path, model: Any, steps_max: int, compute_s: float) -> None:
        self._worker = optimd.connect(address, job=JOB, worker=name, timeout_s=30.0)
        session = self._worker._session
        session.transport = NotedTransport(session.transport, notes)  # type: ignore[assignment]
        self._name, self._model, self._steps_max, self._compute_s = name, model, steps_max, compute_s
        self._leaving = False

    def process_id(self) -> int:
        """Of the process to kill."""
        return os.getpid()

    def leave(self) -> None:
        """After the step at hand."""
        self._leaving = True

    def run(self) -> Report:
        """To the end of the job, unless told to leave or fenced."""
        digits = data.load()
        train, labels = digits.train_x, digits.train_labels
        random = np.random.default_rng(abs(hash(self._name)) % 2**32)
        worker, steps, stall_s = self._worker, 0, 0.0
        worker.ensure_job(start(), optimd.SGD(0.2), self._model, steps_max=self._steps_max)
        parameters = worker.pull()
        last_s = time.monotonic()
        while not self._leaving:
            rows = random.integers(0, len(labels), BATCH)
            time.sleep(self._compute_s)
            try:
                result = worker.step(gradients(parameters, train[rows], labels[rows]), weight=BATCH)
            except optimd.EpochSuperseded:
                return Report(self._name, steps, stall_s, "superseded")
            except optimd.OutcomeUnknown:
                parameters = worker.pull()
                continue
            now_s = time.monotonic()
            stall_s, last_s, steps = max(stall_s, now_s - last_s), now_s, steps + 1
            parameters = result.parameters
            if result.finished:
                worker.leave()
                return Report(self._name, steps, stall_s, "finished")
        worker.leave()
        return Report(self._name, steps, stall_s, "left")


def start() -> dict[str, NDArray[np.float32]]:
    """Zeros."""
    return {"w": np.zeros((64, 10), np.float32), "b": np.zeros(10, np.float32)}


def gradients(parameters: Any, images: Any, labels: Any) -> dict[str, NDArray[np.float32]]:
    """Of the mean cross-entropy of softmax regression."""
    logits = images @ parameters["w"] + parameters["b"]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    error = odds / odds.sum(axis=1, keepdims=True)
    error[np.arange(len(labels)), labels] -= 1
    error /= len(labels)
    return {"w": (images.T @ error).astype(np.float32), "b": error.sum(axis=0).astype(np.float32)}


def accuracy(parameters: Any) -> float:
    """On images that were not trained on."""
    digits = data.load()
    scores = digits.test_x @ parameters["w"] + parameters["b"]
    return float((np.argmax(scores, axis=1) == digits.test_labels).mean())


def check_books(folder: Path, address: str) -> dict[str, int]:
    """What workers sent adds up to what the server counted: each push has one outcome or was never taken."""
    sent: Counter[Key] = Counter()
    told: dict[Key, str] = {}
    for path in folder.iterdir():
        for line in path.read_text().splitlines():
            what, worker, epoch, seq = line.split()
            key = (worker, int(epoch), int(seq))
            if what == "sent":
                sent[key] += 1
            else:
                assert told.setdefault(key, what) == what, f"{key} was told {told[key]} and {what}"
    assert set(told) <= set(sent)
    with RawClient(address) as client:
        untold = [key for key in sent if key not in told]
        for worker, epoch, seq in untold:
            request = pb.AwaitOutcomeRequest(job=JOB, worker=worker, epoch=epoch, seq=seq)
            answer = client.call("AwaitOutcome", request)
            assert answer.state != pb.PUSH_STATE_WAITING
            if answer.state == pb.PUSH_STATE_DONE:
                status = pb.OutcomeStatus.Name(answer.outcome.status)
                told[worker, epoch, seq] = status.removeprefix("OUTCOME_STATUS_").lower()
        counters = client.call("GetJob", pb.GetJobRequest(job=JOB)).counters
    counted = {name: getattr(counters, name) for name in ("applied", "discarded", "rejected")}
    assert counted == {name: list(told.values()).count(name) for name in counted}
    resent = sum(sent.values()) - len(sent)
    assert counters.duplicates <= resent, "more duplicates than pushes that were sent again"
    return {**counted, "duplicates": counters.duplicates, "resent": resent, "untold": len(untold)}
