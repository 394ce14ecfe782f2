"""`optimd plot-schedule` as its users run it, and the page of schedules that is made with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from optimd_server import plot
from optimd_server.schedules import momentum_of, rate_of
from optimdpb.specs.text import CLASS_OF_NAME, schedule_from_text
from PIL import Image

from tests.support import docs_pictures, program

SGDR = "sgdr(lr_max=0.1, lr_min=0.01, period=50)"


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    return program.told(capsys, "plot-schedule", *arguments)


def points(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[plot.Curve]:
    return [plot.Curve(**curve) for curve in json.loads(told(capsys, *arguments, "--json"))["curves"]]


@pytest.mark.parametrize("entry", docs_pictures.ENTRIES.values(), ids=docs_pictures.ENTRIES)
def test_every_schedule_is_drawn_as_it_is(entry: docs_pictures.Entry, capsys: pytest.CaptureFixture[str]) -> None:
    (curve,) = points(capsys, entry.text, "--steps", "600")
    schedule = schedule_from_text(entry.text)
    assert curve.steps == list(range(600))
    if curve.losses is None:
        assert curve.values == [rate_of(schedule)(step) for step in range(600)]
    else:
        assert sorted(set(curve.values), reverse=True) == pytest.approx([0.1, 0.04, 0.016, 0.0064])
    momentum = momentum_of(schedule)
    assert curve.momentum == (None if momentum is None else [momentum(step) for step in range(600)])


def test_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, SGDR, "--steps", "200", "--compare", "one_cycle(0.1, 200)", "--compare", "0.05")
    assert text.splitlines()[0].strip() == "value by global step"
    assert f"1. {SGDR}\n   from 0.1 to 0.0100888, highest 0.1 at 0, lowest 0.0100888 at 49\n" in text
    assert "2. one_cycle(lr_max=0.1, steps=200)\n" in text
    assert "   momentum or beta1 from 0.95 to 0.85 and back\n" in text
    assert "3. constant(lr=0.05)\n   from 0.05 to 0.05" in text


def test_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    asked = [SGDR, "--steps", "200", "--compare", "one_cycle(0.1, 200)", "--compare", "plateau(0.1)"]
    assert told(capsys, *asked, "--out", str(first)) == ""
    told(capsys, *asked, "--out", str(again))
    assert first.read_bytes() == again.read_bytes()
    with Image.open(first) as image:
        assert image.format == "PNG"
        assert image.width > 500
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 20
    told(capsys, SGDR, "--steps", "200", "--log", "--out", str(again))


def test_workers_go_through_a_schedule_faster(capsys: pytest.CaptureFixture[str]) -> None:
    rounds, pushes = points(capsys, SGDR, "--steps", "100", "--workers", "4")
    rate = rate_of(schedule_from_text(SGDR))
    assert rounds.values == [rate(step) for step in range(100)]
    assert pushes.values == [rate(4 * step) for step in range(100)]
    assert rounds.label == f"Sync: one round is one step, {SGDR}"
    assert pushes.label == f"Async, Ssp: one push of 4 workers is one step, {SGDR}"


def test_long_schedules_are_sampled(capsys: pytest.CaptureFixture[str]) -> None:
    (curve,) = points(capsys, "linear(1, 0, 10000000)", "--steps", "10000000")
    assert len(curve.steps) == plot.POINTS_MAX
    assert (curve.steps[0], curve.steps[-1]) == (0, 9_999_999)
    assert points(capsys, "0.1", "--steps", "1")[0].steps == [0]


def test_json_in(capsys: pytest.CaptureFixture[str]) -> None:
    (curve,) = points(capsys, '{"sgdr": {"lr_max": 0.1, "lr_min": 0.01, "period": 50}}', "--steps", "5")
    assert curve.label == SGDR


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([SGDR], "--steps"),
        ([SGDR, "--steps", "0"], "expected a whole number from 1 to 10000000, got '0'"),
        ([SGDR, "--steps", "x"], "got 'x'"),
        ([SGDR, "--steps", "10000001"], "from 1 to 10000000, got"),
        (["sgdr(0.1, 0.01, 0)", "--steps", "5"], "sgdr.period: expected an integer from 1"),
        (["nothing(1)", "--steps", "5"], "expected one of constant, linear"),
        (['{"sgdr": 1}', "--steps", "5"], "expected a schedule as JSON"),
        (["{", "--steps", "5"], "Expecting property name"),
        ([SGDR, "--steps", "5", "--workers", "0"], "from 1 to 4096"),
        ([SGDR, "--steps", "5", "--json", "--out", "x.png"], "expected --json or --out, got both"),
        ([SGDR, "--step", "5"], "there is no option --step: did you mean --steps?"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    ended, out, err = program.said(capsys, "plot-schedule", *arguments)
    assert (ended, out) == (2, "")
    assert words in err


@pytest.mark.parametrize(("library", "more"), [("uniplot", []), ("matplotlib.figure", ["--out", "x.png"])])
def test_a_library_that_is_not_installed(
    library: str, more: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    ended, _, err = program.said(capsys, "plot-schedule", SGDR, "--steps", "5", *more)
    assert (ended, "pip install 'optimd[plot]'" in err) == (1, True)


def test_a_file_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended, _, err = program.said(capsys, "plot-schedule", SGDR, "--steps", "5", "--out", str(tmp_path / "no" / "x.png"))
    assert (ended, "No such file" in err) == (1, True)


def test_the_page_is_what_make_docs_pictures_writes() -> None:
    assert (docs_pictures.DOCS / "schedules.md").read_text() == docs_pictures.page(), "run: make docs-pictures"
    pictures = {path.stem for path in (docs_pictures.DOCS / "schedules").glob("*.png")}
    assert pictures == {*CLASS_OF_NAME, "workers"}
