"""What others do to a table while a flow writes it, and disks that are full, or can't be written: it goes on, or says why not."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pydantic import SecretStr

from sinks.delta import DeltaTarget
from sinks.delta.files import failed, said
from tests.servers.disk import small_disk
from tests.sinks.delta.process import Process, check, table
from waxwing.errors import ConfigError, DataError, RightsError, TransientError, TryLater, WaxwingError
from waxwing.settings import DeltaSettings

OTHERS = pa.table({"partition": pa.array([99], pa.int32()), "offset": pa.array([7], pa.int64())})


def rows(path: Path) -> list[tuple[int, int]]:
    return sorted((row["partition"], row["offset"]) for row in DeltaTable(path).to_pyarrow_table().to_pylist())


def test_a_flow_goes_on_between_the_appends_and_overwrites_of_others(tmp_path: Path) -> None:
    path = tmp_path / "items"
    one = Process(path).open(0)
    one.write(0, 2, bad=[1])
    write_deltalake(path, OTHERS, mode="append")
    one.write(0, 2)
    assert rows(path) == [(0, 0), (0, 2), (0, 3), (99, 7)]
    change = one.change(0, 2)
    one.stage(change)
    write_deltalake(path, OTHERS, mode="overwrite")
    one.commit(change)
    one.is_gone()
    new = Process(path).open(0)
    assert new.at[0].offset_next == 6
    new.write(0, 1)
    assert rows(path) == [(0, 4), (0, 5), (0, 6), (99, 7)]


def test_compaction_vacuum_and_checkpoints_at_any_moment_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "items"
    for _ in range(3):
        one = Process(path).open(0, 1)
        for partition in (0, 1):
            one.write(partition, 3, bad=[1, 4, 7, 10, 13, 16])
            change = one.change(partition, 3, bad=[1, 4, 7, 10, 13, 16])
            for one_of in (path, f"{path}_dead_letters"):
                DeltaTable(one_of).optimize.compact()
                DeltaTable(one_of).create_checkpoint()
                DeltaTable(one_of).vacuum(0, dry_run=False, enforce_retention_duration=False, full=True)
            one.give(change)
        one.is_gone()
    check(path, {0: 18, 1: 18}, [1, 4, 7, 10, 13, 16])


def test_files_that_a_vacuum_took_before_their_commit_are_not_committed(tmp_path: Path) -> None:
    path = tmp_path / "items"
    one = Process(path).open(0)
    one.write(0, 2)
    change = one.change(0, 2)
    one.stage(change)
    real = one.session(0)._writer.staging

    def finish(finish: Any = real.finish) -> Any:
        done = finish()
        DeltaTable(path).vacuum(0, dry_run=False, enforce_retention_duration=False, full=True)
        return done

    real.finish = finish
    with pytest.raises(TryLater, match="is gone before it was committed"):
        one.commit(change)
    one.is_gone()
    new = Process(path).open(0)
    new.write(0, 2)
    check(path, {0: 4})


@pytest.mark.parametrize("back", [0, 1])
def test_a_table_that_is_restored_while_the_flow_runs_stops_it_where_rows_are_taken_back(tmp_path: Path, back: int) -> None:
    path = tmp_path / "items"
    one = Process(path).open(0)
    one.write(0, 2)
    one.write(0, 2)
    change = one.change(0, 2)
    one.stage(change)
    write_deltalake(path, OTHERS, mode="append")
    there = DeltaTable(path)
    there.restore(there.version() - 1 - back)
    if not back:
        one.commit(change)
        check(path, {0: 6})
        return
    with pytest.raises(DataError, match="was restored to a version before the last commit"):
        one.commit(change)
    assert rows(path) == [(0, 0), (0, 1)]


def test_a_table_that_is_gone_or_made_anew_while_the_flow_runs_stops_it(tmp_path: Path) -> None:
    path = tmp_path / "items"
    one = Process(path).open(0)
    one.write(0, 2)
    schema = DeltaTable(path).schema()
    change = one.change(0, 2)
    one.stage(change)
    shutil.rmtree(path)
    with pytest.raises(WaxwingError) as raised:
        one.commit(change)
    assert raised.value.exit_code in (65, 75)
    assert "is gone" in str(raised.value)
    shutil.rmtree(path, ignore_errors=True)
    DeltaTable.create(path, schema)
    with pytest.raises(DataError, match="was replaced by another one"):
        one.target.positions()


# -- disks ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk() -> Iterator[Path]:
    """A disk of a few megabytes."""
    with small_disk(4) as folder:
        yield folder


def test_on_a_full_disk_it_ends_with_75_and_goes_on_once_there_is_room(disk: Path) -> None:
    path = disk / "items"
    one = Process(path).open(0)
    one.write(0, 2, bad=[1])
    ballast = disk / "ballast"
    for free in (0, 4_096, 12_288, 20_480, 28_672):  # it is found at another place each time
        ballast.write_bytes(b"x" * (shutil.disk_usage(disk).free - free))
        try:
            one.write(0, 4, bad=[one.at[0].offset_next])
        except WaxwingError as error:
            assert error.exit_code == 75  # noqa: PT017
            assert "No space left" in str(error)  # noqa: PT017
        ballast.unlink()
        one.is_gone()
        one = Process(path).open(0)
    end = one.at[0].offset_next
    bad = [row["offset"] for row in DeltaTable(f"{path}_dead_letters").to_pyarrow_table().to_pylist()]
    check(path, {0: end}, bad)


def test_on_a_disk_that_can_t_be_written_it_ends_with_78(disk: Path) -> None:
    path = disk / "items"
    one = Process(path).open(0)
    one.write(0, 2, bad=[1])
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(RightsError, match="can't be written") as raised:
        one.write(0, 2)
    assert raised.value.exit_code == 78
    with pytest.raises(RightsError):
        Process(path).take()
    with pytest.raises(RightsError):
        Process(disk / "more").take()


def test_what_a_place_says_is_one_line_and_has_a_kind() -> None:
    told = "Generic S3 error\n   \x1b[31m↳\x1b[0m Error performing GET\n     403 Forbidden"
    assert said(OSError(told)) == "Generic S3 error Error performing GET 403 Forbidden"
    for text, kind in (
        (told, RightsError),
        ("x (os error 13)", RightsError),
        ("x (os error 28)", TryLater),
        ("tcp connect error (os error 111)", TransientError),
        ('Generic Config error failed to parse "soon" as Duration', ConfigError),
        ("HTTP error builder error URL scheme is not allowed", ConfigError),
        ("Generic MicrosoftAzure error Invalid Access Key Invalid symbol 33", ConfigError),
        ("GCP credential error Unable to decode service account file", ConfigError),
        ("File name too long (os error 36)", RightsError),
        ("404 Not Found <Error><Code>NoSuchBucket</Code>", ConfigError),
    ):
        assert type(failed("s3://a/b", "can't be read", OSError(text))) is kind


def test_an_endpoint_that_is_no_url_is_refused_and_not_told() -> None:
    for name in ("AWS_ENDPOINT_URL", "aws_endpoint", "azure_endpoint"):
        with pytest.raises(ValueError, match="has to be a URL") as raised:
            DeltaSettings(delta_storage_options={name: SecretStr("nonsense")})
        assert "nonsense" not in str(raised.value)
    DeltaSettings(delta_storage_options={"azure_use_fabric_endpoint": SecretStr("true")})


def test_no_storage_option_is_told_but_where_the_store_is(tmp_path: Path) -> None:
    options = {
        "AWS_SECRET_ACCESS_KEY": "very/secret+",
        "azure_storage_sas_key": "sig=also%2Bsecret",
        "AWS_REGION": "eu-central-1",
    }
    settings = DeltaSettings(delta_storage_options={name: SecretStr(text) for name, text in options.items()})
    assert "secret+" not in repr(settings)
    DeltaTarget(settings, "s3://bucket/items", table())
    told = str(failed("s3://bucket/items", "can't be read", OSError(f"no {' '.join(options.values())}")))
    assert told == "s3://bucket/items can't be read: no (hidden) (hidden) eu-central-1"
