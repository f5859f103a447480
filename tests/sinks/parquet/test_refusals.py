"""What a folder can't do, or no longer holds, is said with what to do; and what runs is not disturbed by it."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlalchemy as sa

from sinks.parquet import ParquetTarget, PartitionKey, chains, day, hour, place, session
from sinks.parquet.place import Place
from sinks.parquet.records import Anchor, Moved, unpack
from sinks.writer.writer import Writer
from tests.servers.disk import small_disk
from tests.sinks.parquet.test_folder import STREAM, batch, commit, order, run, settings, table
from tests.sinks.parquet.world import bound
from waxwing.change import Start
from waxwing.errors import EXIT_TRY_AGAIN, ConfigError, DataError, Fenced, TargetError, TryLater, WaxwingError
from waxwing.ledger.members import Member
from waxwing.ledger.store import Step
from waxwing.settings import ParquetSettings


def opened(folder: Path, run: int = 0, process: int = 0, *, member: str = "", **some: Any) -> ParquetTarget:
    """A target that has its step, in this process of a start."""
    target = bound(ParquetTarget(settings(**some), folder, table()), Member(f"run-{run}", process, member or f"{run}.{process}"))
    target.prepare()
    assert target.ownership.take() == ""
    target.begin([Start(STREAM, 0, None)])
    return target


def ours(call: Callable[[], object]) -> WaxwingError:
    """The error of ours that it ends with."""
    with pytest.raises(BaseException) as raised:  # noqa: PT011 - whatever it is
        call()
    found: BaseException | None = raised.value
    while found is not None and not isinstance(found, WaxwingError):
        found = found.__cause__ or found.__context__
    assert found is not None, raised.value
    return found


# -- the table and its keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (["nobody"], "rows bring no column nobody"),
        ([day("nobody")], "rows bring no column nobody"),
        ([day("shop")], r"column shop \(Text\(\)\) can't be the key date"),
        ([hour("day")], r"column day \(Date\(\)\) can't be the key hour"),
        (["amount"], r"column amount \(.*\) can't be the key amount"),
        ([day("at"), day("day")], "the key date is there twice"),
        ([day("at", "Shop")], "the key shop is there twice"),
        ([PartitionKey(name="a/b", column="id", value=str)], "'a/b' can't be the name of a folder's key"),
        (["id", "shop", "amount_id", "day", "at"], "can't be the key at"),
    ],
)
def test_a_key_that_can_be_none_is_refused(tmp_path: Path, keys: list[Any], why: str) -> None:
    more = sa.Column("day", sa.Date), sa.Column("amount_id", sa.Integer)
    with pytest.raises(ConfigError, match=why):
        ParquetTarget(settings(), tmp_path / "orders", table(*more), partition_by=keys)


def test_a_column_is_left_for_the_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="would have no column"):
        ParquetTarget(settings(), tmp_path / "orders", table(), columns=["id"], partition_by=["id"])


def test_positions_have_names_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is a column kafka_offset"):
        ParquetTarget(settings(), tmp_path / "orders", table(sa.Column("kafka_offset", sa.Integer)), positions=True)


def test_a_type_or_keys_that_change_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    run(ParquetTarget(settings(), folder, table(), partition_by=["shop"]), [order(0)])
    wider = sa.Table(
        "orders", sa.MetaData(), *(c._copy() for c in table().c if c.name != "amount"), sa.Column("amount", sa.Numeric(12, 2))
    )
    refused = ours(lambda: run(ParquetTarget(settings(), folder, wider, partition_by=["shop"]), [order(n) for n in range(3)]))
    assert isinstance(refused, ConfigError)
    assert "column amount is decimal128(12, 2), where they have decimal128(10, 2)" in refused.message
    for keys in ([], [day("at")]):
        refused = ours(lambda keys=keys: run(ParquetTarget(settings(), folder, table(), partition_by=keys), [order(0)]))  # type: ignore[misc]
        assert "where they have shop" in refused.message
    run(ParquetTarget(settings(), folder, table(), partition_by=["shop"]), [order(n) for n in range(3)])
    assert ids(folder) == [0, 1, 2]


def ids(folder: Path) -> list[int]:
    with duckdb.connect() as connection:
        return [row[0] for row in connection.execute(f"SELECT id FROM '{folder}/**/*.parquet' ORDER BY id").fetchall()]


def test_two_steps_write_one_folder_if_their_files_go_together(tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    run(ParquetTarget(settings(), folder, table()), [order(n) for n in range(2)])
    other = bound_as(ParquetTarget(settings(), folder, table(sa.Column("more", sa.Text))), "other")
    other.prepare()
    assert other.left_behind() == ""
    assert other.taken_elsewhere([STREAM]) == []
    assert other.taken_elsewhere([STREAM._replace(source="orders", source_id="name:orders")]) == [("shop", "files")]
    strange = bound_as(ParquetTarget(settings(), folder, table(), partition_by=["shop"]), "other")
    with pytest.raises(ConfigError, match="those of step files of flow shop have none"):
        strange.prepare()


def bound_as(target: ParquetTarget, step: str) -> ParquetTarget:
    target.bind("shop", step)
    return target


# -- the folder ----------------------------------------------------------------------------------------------------------------


def test_a_folder_that_holds_files_nobody_remembers_is_refused_unless_it_is_meant(tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    run(ParquetTarget(settings(), folder, table()), [order(0)])
    shutil.rmtree(tmp_path / ".orders.waxwing")
    refused = ours(lambda: run(ParquetTarget(settings(), folder, table()), [order(0)]))
    assert isinstance(refused, DataError)
    assert "holds files such as" in refused.message
    assert "every row would stand there twice" in refused.message


def test_a_folder_without_the_right_to_write_is_refused(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from tests.sinks.parquet.test_refusals import ParquetTarget, bound_as, settings, table\n"
        "target = bound_as(ParquetTarget(settings(), Path(sys.argv[1]) / 'orders', table()), 'files')\n"
        "os.setuid(65534) if os.getuid() == 0 else None\n"
        "try:\n    target.prepare()\nexcept Exception as error:\n    print(type(error).__name__, error)\n"
    )
    parent = Path("/tmp") / f"waxwing-rights-{os.getpid()}-{tmp_path.name}"
    parent.mkdir(mode=0o555)
    try:
        root = Path(__file__).parents[3]
        child = subprocess.run([sys.executable, "-c", code, str(parent)], cwd=root, capture_output=True, text=True, check=True)
    finally:
        parent.rmdir()
    assert child.stdout.startswith("RightsError"), child.stderr
    assert "needs the right to write into" in child.stdout


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (errno.EPERM, "makes no hard links"),
        (errno.EOPNOTSUPP, "makes no hard links"),
        (errno.EACCES, "needs the right"),
        (errno.ENOSPC, "There is no room"),
    ],
)
def test_a_file_system_without_hard_links_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, what: str
) -> None:
    def link(made: Path, path: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    assert what in str(ours(lambda: run(ParquetTarget(settings(), tmp_path / "orders", table()), [order(0)])))
    assert sorted(path.name for path in (tmp_path / "orders").iterdir()) == []


def test_a_file_system_that_gives_a_name_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", shutil.copy)
    refused = ours(lambda: run(ParquetTarget(settings(), tmp_path / "orders", table()), [order(0)]))
    assert "gives one name twice" in refused.message


def test_a_folder_on_another_file_system_than_its_parent_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(old: Path, new: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "rename", rename)
    refused = ours(lambda: run(ParquetTarget(settings(), tmp_path / "orders", table()), [order(0)]))
    assert "another file system" in refused.message
    assert str(tmp_path / "orders" / "rows") in refused.hint


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.read_text
    mounts = f"dev / ext4 rw 0 0\nserver:/x {str(tmp_path.resolve()).replace(' ', chr(92) + '040')} nfs4 rw 0 0\n"
    monkeypatch.setattr(
        Path, "read_text", lambda path, *a, **k: mounts if str(path) == "/proc/self/mounts" else real(path, *a, **k)
    )
    refused = ours(lambda: run(ParquetTarget(settings(), tmp_path / "orders", table()), [order(0)]))
    assert "network file system (nfs4)" in refused.message


def test_the_root_is_no_folder_of_files() -> None:
    with pytest.raises(ConfigError, match="can't be a folder of files"):
        ParquetTarget(settings(), "/", table())


@pytest.mark.parametrize("gone", ["anchor", "chains"])
def test_what_was_removed_by_hand_of_what_is_remembered_is_named(tmp_path: Path, gone: str) -> None:
    folder = tmp_path / "orders"
    target = opened(folder)
    at = target.connect("lane-000", target.token())
    commit(at, at.take_over(STREAM), 1)
    shutil.rmtree(target.place.own / gone)
    with pytest.raises(DataError, match="is gone, without which nobody knows"):
        at.take_over(STREAM)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    target = opened(tmp_path / "orders")
    last = target.place.anchor_path(target.place.numbers()[-1])
    last.write_bytes(b"?")
    fresh = bound(ParquetTarget(settings(), tmp_path / "orders", table()), Member("run-1", 0, "own"))
    with pytest.raises(DataError, match=f"{last} is damaged"):
        fresh.prepare()


# -- disks ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk() -> Iterator[Path]:
    """A disk of a few megabytes."""
    with small_disk(8) as folder:
        yield folder


def test_on_a_full_disk_it_ends_with_75_and_goes_on_once_there_is_room(disk: Path) -> None:
    letters = random.Random(3)
    records = [order(n, shop=letters.randbytes(5_000).hex()) for n in range(1_000)]

    def write(count: int) -> None:
        target = opened(disk / "orders", count, parquet_file_age_s=0.0)
        writer = Writer(target, "lane-000")
        try:
            for first in range(0, count, 100):
                writer.put(batch(first, records[first : first + 100]))
            writer.flush()
        finally:
            writer.close()

    write(200)
    (disk / "ballast").write_bytes(b"x" * (shutil.disk_usage(disk).free - 1_000_000))
    with pytest.raises(TryLater) as stopped:
        write(1_000)
    assert stopped.value.exit_code == EXIT_TRY_AGAIN
    assert "Make room" in stopped.value.hint
    before = ids(disk / "orders")
    assert before == list(range(len(before)))
    (disk / "ballast").unlink()
    write(1_000)
    assert ids(disk / "orders") == list(range(1_000))


@pytest.mark.parametrize("call", ["link", "fsync", "rename"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_in_a_commit_stops_the_flow_and_nothing_is_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    folder = tmp_path / "orders"
    for fails_at in range(1, 7):
        target = opened(folder, fails_at, parquet_file_age_s=0.0)
        at = target.connect("lane-000", target.token())
        position = at.take_over(STREAM)
        first = position.offset_next
        at.stage([batch(first, [order(first)])])
        real = getattr(os, call)
        made: list[int] = []

        def failing(*args: Any, real: Any = real, made: Any = made, fails_at: int = fails_at, **kwargs: Any) -> Any:
            made.append(1)
            if len(made) == fails_at:
                raise OSError(number, os.strerror(number))
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            try:
                commit(at, position, first + 1)
                assert len(made) < fails_at
            except TryLater:
                assert len(made) >= fails_at
        target.ownership.release()
    last = opened(folder, 99)
    (position,) = last.positions()
    assert ids(folder) == list(range(position.offset_next))


# -- owners --------------------------------------------------------------------------------------------------------------------


def test_processes_of_one_start_write_beside_each_other(tmp_path: Path) -> None:
    folder, other = tmp_path / "orders", STREAM._replace(partition=1)
    first = opened(folder, process=0)
    at = first.connect("lane-000", first.token())
    position = at.take_over(STREAM)
    at.stage([batch(0, [order(0)])])
    position = commit(at, position, 1)
    second = opened(folder, process=1)
    second.begin([Start(other, 5, 9)])
    at.stage([batch(1, [order(1)])])
    position = commit(at, position, 2)
    second.begin([Start(STREAM, 0, 7), Start(other, 5, 9)])  # a process that comes late says what all say
    at.stage([batch(2, [order(2)])])
    commit(at, position, 3)
    beside = second.connect("lane-001", second.token())
    assert beside.take_over(other).offset_next == 5
    found = {one.stream.partition: (one.offset_next, one.offset_end) for one in second.positions()}
    assert found == {0: (3, 7), 1: (5, 9)}
    assert ids(folder) == [0, 1, 2]


def test_one_that_came_no_further_than_to_a_seal_stops_who_it_sealed_with_75(tmp_path: Path, impatient: None) -> None:
    target = opened(tmp_path / "orders")
    at = target.connect("lane-000", target.token())
    position = commit(at, at.take_over(STREAM), 1)
    ledger = target.parquet_ledger
    number, anchor = ledger.newest()
    ledger.chains.seal(anchor.runs[0], "lane-000", number, "another")
    with pytest.raises(TryLater, match="has not come to that") as stopped:
        commit(at, position, 2)
    assert stopped.value.exit_code == EXIT_TRY_AGAIN
    after = opened(tmp_path / "orders", member="again")
    assert after.positions()[0].offset_next == 1
    with pytest.raises(Fenced):
        commit(at, position, 2)


def test_a_position_that_is_set_while_it_is_written_stops_the_lane(tmp_path: Path, impatient: None) -> None:
    target = opened(tmp_path / "orders")
    at = target.connect("lane-000", target.token())
    position = commit(at, at.take_over(STREAM), 4)
    target.jump(STREAM, 4, 2)
    with pytest.raises(TargetError, match="was set anew"):
        commit(at, position, 5)
    assert [one.offset_next for one in target.positions()] == [2]
    again = opened(tmp_path / "orders", 1)
    fresh = again.connect("lane-000", again.token())
    position = commit(fresh, fresh.take_over(STREAM), 3)
    assert [one.offset_next for one in again.positions()] == [3]


def test_a_position_that_is_set_right_behind_a_commit_stops_the_lane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    target = opened(tmp_path / "orders")
    at = target.connect("lane-000", target.token())
    position = commit(at, at.take_over(STREAM), 4)
    real, jumps = Place.link, [5]

    def link(own: Place, path: Path, *some: Any, **more: Any) -> bool:
        made = real(own, path, *some, **more)
        if jumps and path.parent != own.anchor:
            target.jump(STREAM, jumps.pop(), 2)
        return made

    with monkeypatch.context() as patch:
        patch.setattr(Place, "link", link)
        with pytest.raises(TargetError, match="was set anew"):
            commit(at, position, 5)
    assert [one.offset_next for one in target.positions()] == [2]


def test_a_chain_stays_short_however_long_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (chains, session):
        monkeypatch.setattr(module, "SEGMENT_RECORDS", 4)
    target = opened(tmp_path / "orders")
    at = target.connect("lane-000", target.token())
    position = at.take_over(STREAM)
    for end in range(1, 30):
        position = commit(at, position, end)
        assert target.positions()[0].offset_next == end
    (chain,) = target.place.chains.iterdir()
    assert len([path for path in chain.iterdir() if path.is_dir()]) == 1
    assert len([path for path in chain.iterdir() if not path.is_dir()]) == 8
    assert list(target.place.staging.iterdir()) == []


def test_what_an_anchor_says_can_be_read_by_hand(tmp_path: Path) -> None:
    target = opened(tmp_path / "orders")
    path = Place(tmp_path / "orders", Step("shop", "out")).own
    assert not path.exists()
    number, anchor = target.parquet_ledger.newest()
    read = unpack(path, target.place.anchor_path(number).read_bytes(), Anchor)
    assert read == anchor
    assert (read.flow, read.step, read.columns["amount"]) == ("flow", "out", "decimal128(10, 2)")
    assert place.is_of_others("0000000003-token-x", 3, ())
    assert not place.is_of_others("0000000003-token-x", 2, ())
    assert not place.is_of_others("0000000003-token-x", 3, ("token",))


def test_a_record_whose_answer_was_lost_is_ours_and_that_of_another_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = opened(tmp_path / "orders")
    real = os.link

    def link(made: Path, path: Path) -> None:
        real(made, path)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link)
        assert target.place.link(target.place.own / "record", b"1", 0, "token")
    assert not target.place.link(target.place.own / "record", b"2", 0, "token")
    assert target.place.read(target.place.own / "record") == b"1"


def test_what_a_chain_says_counts_where_it_builds_on_the_place_of_the_anchor() -> None:
    held = Moved(3, 10, 10, 0, 0, None, None, 0, 0, 0)
    for since, offset, counts in ((2, 20, False), (3, 9, False), (3, 20, True)):
        moved = Moved(since, offset, offset, 0, 0, None, None, 0, 0, 0)
        streams = {STREAM: held}
        chains.merge(streams, {STREAM: moved})
        assert (streams == {STREAM: moved}) == counts


def test_an_object_store_is_no_folder() -> None:
    with pytest.raises(ConfigError, match=r"s3://bucket/x is no folder of a local disk"):
        ParquetTarget(ParquetSettings(), "s3://bucket/x", sa.Table("t", sa.MetaData(), sa.Column("id", sa.Integer)))
