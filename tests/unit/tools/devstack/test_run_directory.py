from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from egret_tools.devstack.processes import PartError
from egret_tools.devstack.run_directory import LOCK_NAME, Data, run_directory


@pytest.fixture
def place() -> Iterator[Path]:
    """A path short enough for the sockets below it; nothing is there yet."""
    with tempfile.TemporaryDirectory(prefix="egret-") as parent:
        yield Path(parent) / "run"


def test_a_run_leaves_nothing_behind(place: Path) -> None:
    """The directory itself goes as well."""
    with run_directory(place) as run:
        run.write_ready({"url": "u"})
        (run.logs / "some.log").write_text("x")
    assert list(place.parent.iterdir()) == []


def test_a_kept_run_can_be_looked_at_and_is_cleared_by_the_next(place: Path) -> None:
    """What a killed run left behind is the same case."""
    with run_directory(place, keep=True) as run:
        (run.logs / "old.log").write_text("x")
    assert (place / "logs" / "old.log").exists()
    with run_directory(place) as run:
        assert list(run.logs.iterdir()) == []


def test_data_is_kept_for_the_next_run_until_a_fresh_one(place: Path) -> None:
    """Everything else of a run is new."""
    for data, found in ((Data.KEPT, []), (Data.KEPT, ["keys"]), (Data.FRESH, [])):
        with run_directory(place, data=data) as run:
            assert [entry.name for entry in run.data.iterdir()] == found
            (run.data / "keys").touch()
            (run.path / "access.jsonl").touch()
        assert {entry.name for entry in place.iterdir()} == {"data", LOCK_NAME}


def test_after_a_failure_the_logs_stay_and_no_secret_beside_them(place: Path) -> None:
    """The folder `sds` has the keys of providers."""

    def fail() -> None:
        with run_directory(place) as run:
            (run.path / "sds").mkdir()
            (run.logs / "envoy.log").write_text("why")
            raise PartError("Envoy", "it ended", hint="look at its log")

    with pytest.raises(PartError):
        fail()
    assert {entry.name for entry in place.iterdir()} == {"logs", LOCK_NAME}
    assert (place / "logs" / "envoy.log").read_text() == "why"


def test_a_directory_that_was_removed_meanwhile_is_no_error(place: Path) -> None:
    """A user may clear up before the run has ended."""
    with run_directory(place, data=Data.KEPT):
        shutil.rmtree(place)
    assert not place.exists()


def test_two_runs_cannot_share_a_directory(place: Path) -> None:
    """The error names the process that is in the way."""
    with (
        run_directory(place),
        pytest.raises(PartError) as refused,
        run_directory(place),
    ):
        pytest.fail("the second one was let in")
    assert f"pid {os.getpid()}" in refused.value.reason
    assert refused.value.hint.endswith(" with --run")
    assert not place.exists()


def test_a_directory_that_no_run_has_made_is_never_cleared(place: Path) -> None:
    """Somebody's own files are not ours to remove."""
    place.mkdir()
    (place / "thesis.txt").write_text("years of work")
    with pytest.raises(PartError) as refused, run_directory(place):
        pytest.fail("it was taken")
    assert "was not made by" in refused.value.reason
    assert (place / "thesis.txt").read_text() == "years of work"
    assert not (place / LOCK_NAME).exists()


def test_a_path_too_long_for_sockets_is_refused_at_once(tmp_path: Path) -> None:
    """PostgreSQL and the workers would each fail later, and word it worse."""
    with pytest.raises(PartError) as refused, run_directory(tmp_path / ("x" * 100)):
        pytest.fail("it was taken")
    assert "Unix socket" in refused.value.reason


def test_a_file_in_the_way_is_named(place: Path) -> None:
    """Not a stack trace of mkdir."""
    place.write_text("x")
    with pytest.raises(PartError) as refused, run_directory(place):
        pytest.fail("it was taken")
    assert str(place) in refused.value.reason
    assert place.read_text() == "x"


def test_the_ready_file_holds_a_key_and_is_its_owners_alone(place: Path) -> None:
    """Written in one step, and gone before anything stops."""
    with run_directory(place) as run:
        run.write_ready({"key": "k"})
        ready = place / "egret.json"
        assert json.loads(ready.read_text()) == {"key": "k"}
        assert stat.S_IMODE(ready.stat().st_mode) == 0o600
        run.forget_ready()
        assert not ready.exists()


def test_a_failure_of_the_disk_names_the_hint(place: Path) -> None:
    """As when it runs full while a part writes."""
    with pytest.raises(PartError) as full, run_directory(place):
        raise OSError(28, "No space left on device")
    assert "No space left" in full.value.reason
    assert "free some space" in full.value.hint
    assert {entry.name for entry in place.iterdir()} == {"logs", LOCK_NAME}


def test_an_output_whose_reader_has_left_is_no_failure_of_the_disk(place: Path) -> None:
    """`egret up --output json | head -c 1`: the run ends in silence, as other commands do."""
    with pytest.raises(BrokenPipeError), run_directory(place):
        raise BrokenPipeError
    assert not place.exists()
