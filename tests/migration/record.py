"""Run a flow as `python -m bytewax.run` does, and note what it makes in the database: `record.py FILE FLOW`.

It stands beside no release: what PYTHONPATH and the working directory name is what runs.
"""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa


def main() -> None:
    file, *arguments = sys.argv[1:]

    @sa.event.listens_for(sa.Engine, "after_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if statement.lstrip().upper().startswith(("CREATE TABLE ", "CREATE INDEX ", "CREATE UNIQUE ")) and "#" not in statement:
            with Path(file).open("a") as out:
                out.write(json.dumps(statement.strip()) + "\n")

    sys.argv = ["bytewax.run", *arguments]
    runpy.run_module("bytewax.run", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
