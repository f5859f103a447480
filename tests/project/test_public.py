"""What is public: its names, its types, and the promises of its docstrings."""

from __future__ import annotations

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from bytewax.inputs import Source

from waxwing.target import Target

ROOT = Path(__file__).parents[2]
CODE = sorted(file for folder in ("waxwing", "sources", "sinks") for file in (ROOT / folder).rglob("*.py"))

# In 0.x a minor version may change these, and the changelog says how.
PUBLIC = {
    "waxwing": ["Settings", "flow", "prefixed", "run"],
    "waxwing.settings": [
        "DatabaseSettings", "DeltaSettings", "DeltaWindowSettings", "Group", "KafkaClientSettings", "KafkaSettings",
        "KafkaTargetSettings", "KafkaWindowSettings", "LaneSettings", "MySQLSettings", "Needed", "ParquetSettings",
        "ParquetWindowSettings", "SQLServerSettings", "Settings",
        "SinkSettings", "SourceSettings", "SqlSettings", "SqlWindowSettings", "WindowSettings", "prefixed",
    ],
    "waxwing.configuration": ["load"],
    "waxwing.operators": [
        "Message", "Origin", "bucket_of", "check", "filter", "flat_map", "key_by", "map", "map_batch", "parse", "unbatch",
        "without_rejects",
    ],
    "waxwing.operators.windows": [
        "MESSAGE_TIME", "NEVER", "UNSEEN", "Aggregate", "Bucket", "Calendar", "Count", "Emission", "First", "Fold", "Held",
        "Hopping", "Last", "Late", "LateEntries", "Mark", "Max", "Mean", "Min", "Opening", "Piece", "Rows", "Session",
        "StreamFold", "Sum", "Tumbling", "Windows", "first_held", "first_opening", "openings",
    ],
    "sources": ["read"],
    "sources.kafka": ["KafkaSource"],
    "sources.kit": [
        "Alert", "Begin", "Fetched", "LaneReader", "LaneSource", "Log", "Messages", "NotThere", "Options", "Place", "Run",
        "Source", "messages", "numbered",
    ],
    "sinks": [
        "Append", "Into", "MemoryTarget", "MemoryWindows", "Merge", "SqlLiveWindows", "SqlTarget", "SqlWindows", "Upsert", "sink",
        "window_sink",
    ],
    "sinks.delta": ["DeltaTarget", "DeltaWindows", "PartitionKey", "day", "hour"],
    "sinks.kafka": ["KafkaTarget", "KafkaWindows"],
    "sinks.parquet": ["ParquetTarget", "ParquetWindows", "PartitionKey", "day", "hour"],
}  # fmt: skip


def public(module: str) -> list[str]:
    names: list[str] = import_module(module).__all__
    return names


@pytest.mark.parametrize("module", PUBLIC)
def test_what_is_public_is_as_it_was(module: str) -> None:
    assert public(module) == PUBLIC[module]
    for name in public(module):
        assert getattr(import_module(module), name)


def things() -> dict[str, Any]:
    """Public functions and classes of ours, by their full names."""
    every = [getattr(import_module(module), name) for module in PUBLIC for name in public(module)]
    ours = [one for one in every if inspect.isfunction(one) or (inspect.isclass(one) and _is_ours(one))]
    return {f"{one.__module__}.{one.__qualname__}": one for one in ours}


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("waxwing", "sources", "sinks")


def signatures() -> dict[str, Any]:
    """Public functions, and the methods that public classes bring themselves."""
    found = {}
    for name, thing in things().items():
        own = vars(thing) if inspect.isclass(thing) else {}
        for part, one in own.items():
            if not part.startswith("_") or part == "__init__":
                found[f"{name}.{part}"] = getattr(one, "fget", None) or getattr(one, "__func__", one)
        if inspect.isfunction(thing):
            found[name] = thing
    return {name: one for name, one in found.items() if inspect.isfunction(one) and one.__module__ != "pydantic.main"}


# Where a parameter or what is returned is anything at all, and why.
ANYTHING = {
    ("prefixed", "return"): "stands where a value of any kind is declared, as pydantic's Field does",
    ("check_records", "kind"): "a type as annotations spell it, which is no class",
    ("check_keys", "kind"): "the same",
    ("check_types", "kind"): "the same",
    ("check_window_rows", "kind"): "the same",
}


def test_no_public_signature_says_any_without_a_reason() -> None:
    checked = signatures()
    assert len(checked) > 60
    bare = [
        (name, part)
        for name, one in checked.items()
        for part, hint in inspect.get_annotations(one).items()
        if hint in ("Any", Any) and (name.rpartition(".")[2], part) not in ANYTHING and part != "context"  # pydantic's own
    ]
    assert not bare
    untyped = [name for name, one in checked.items() if not inspect.get_annotations(one)]
    assert not [name for name in untyped if not name.endswith("__init__") and "lambda" not in name]


def test_everything_public_is_described() -> None:
    assert not [name for name, one in things().items() if not inspect.getdoc(one)]


def deliveries() -> list[tuple[str, str, str]]:
    """Every `Delivery:` of a docstring, with its file and what bears it."""
    found = []
    for file in CODE:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
                found += [
                    (str(file.relative_to(ROOT)), node.name, promise)
                    for promise in re.findall(r"^Delivery: (.*?)(?=^\S|\Z|^$)", text, re.MULTILINE | re.DOTALL)
                ]
    return found


def test_every_promise_of_a_delivery_names_tests_that_exist() -> None:
    found = deliveries()
    assert len(found) >= 19
    for file, name, promise in found:
        tests = re.findall(r"tests/[\w/]+\.py", promise)
        assert tests, f"{file}: {name} promises {promise!r}, and names no test"
        assert not [test for test in tests if not (ROOT / test).exists()], f"{file}: {name}: there is no {tests}"


def test_what_reads_writes_or_changes_records_says_how_parallel_it_is_and_what_it_delivers() -> None:
    def moves_records(thing: Any) -> bool:
        parents = (Source, Target)
        return issubclass(thing, parents) if inspect.isclass(thing) else "step_id" in inspect.signature(thing).parameters

    streams = [name for name, one in things().items() if moves_records(one)]
    assert len(streams) >= 15
    for name in streams:
        text = inspect.getdoc(things()[name]) or ""
        assert all(re.search(rf"^{word}: ", text, re.MULTILINE) for word in ("Parallelism", "Delivery")), name
