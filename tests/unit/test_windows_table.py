"""Windows and tables: which go together."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from sinks.window_table import WindowTable
from waxwing.errors import ConfigError
from waxwing.operators.windows import Count, Tumbling, Windows


def define(**changes: Any) -> Windows:
    plain: dict[str, Any] = {"by": ("key",), "time": "time", "kind": Tumbling(60), "aggregates": {"n": Count()}, "lateness_s": 5}
    return Windows(**plain | changes)


def table(*keys: str, **nullable: bool) -> sa.Table:
    kinds: dict[str, Any] = {"window_start": sa.BigInteger, "key": sa.String(9), "n": sa.BigInteger}
    takes_null = {name: nullable.get(name, name not in keys) for name in kinds}
    columns = [sa.Column(name, kind, primary_key=name in keys, nullable=takes_null[name]) for name, kind in kinds.items()]
    return sa.Table("totals", sa.MetaData(), *columns)


@pytest.mark.parametrize("refused", [table("window_start", "key"), table(key=False)])
def test_a_column_that_takes_no_null_needs_what_stands_for_one(refused: sa.Table) -> None:
    with pytest.raises(ConfigError, match="key can't be null") as caught:
        WindowTable(refused, define(null_keys="group"))
    assert 'null_keys={"key": ""}' in caught.value.hint
    for good in ("reject", {"key": ""}):
        WindowTable(refused, define(null_keys=good))
    WindowTable(table(), define(null_keys="group"))
