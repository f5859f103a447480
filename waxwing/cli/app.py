"""The commands and their options. What they do is imported when they are called, so that `--help` answers at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated

import typer

EXIT_CODES = """
Exit codes: 0 done or asked to stop; 65 positions and data do not fit; 70 a bug; 75 try again later;
76 fenced (another owner is alive); 78 settings, permissions, tables.
"""

app = typer.Typer(
    help=f"Kafka and SQL, streamed exactly once.\n\n{EXIT_CODES}",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
produce_app = typer.Typer(no_args_is_help=True, help="Fill a topic with generated records.")
step_app = typer.Typer(no_args_is_help=True, help="Rename or drop a step's stored positions, after a change of the code.")
flow_app = typer.Typer(no_args_is_help=True, help="Rename a flow's stored positions, after a change of the code.")
app.add_typer(produce_app, name="produce")
app.add_typer(flow_app, name="flow")
app.add_typer(step_app, name="step")


def _version(asked: bool) -> None:
    if asked:
        from waxwing import __version__

        typer.echo(f"waxwing {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None: ...


FlowName = Annotated[str, typer.Argument(help="The flow's name, as given to Dataflow(...): `orders`.")]


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": False})
def run(
    context: typer.Context,
    flow: Annotated[str, typer.Argument(help="`orders` (short for dataflows.orders), or a module, or module:attribute.")],
    processes: Annotated[int, typer.Option("--processes", "-p", min=1, max=256, help="How many processes, on this machine.")] = 1,
    restarts_max: Annotated[int, typer.Option(min=0, help="Restarts within the time below before giving up (exit 75).")] = 10,
    restarts_within_s: Annotated[float, typer.Option(min=1.0, help="Seconds over which restarts are counted.")] = 600.0,
) -> None:
    """Run a flow in one or more processes of this machine, watch them, and restart them together.

    When a process is killed, or exits with 75 (try again), all are started again, after a growing wait. Any other failure stops
    all with its exit code. SIGTERM and Ctrl-C stop cleanly; the processes never outlive this command.

    What stands behind `--` is given to bytewax.run: `waxwing run orders --processes 2 -- -w 2`.
    """
    from waxwing.cli.flows import demand
    from waxwing.cli.supervisor import Limits, Supervisor

    demand(flow)
    raise typer.Exit(Supervisor(flow, processes, context.args, Limits(restarts_max, restarts_within_s)).run())


Rate = Annotated[float | None, typer.Option(min=0.1, help="Records per second at most. [default: as fast as it goes]")]
Bad = Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of records that are bad, in turn in every known way.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="The same seed makes the same records.")]
ToTopic = Annotated[str | None, typer.Option(help="Topic to fill. [default: SOURCE_TOPIC]")]
Partitions = Annotated[int | None, typer.Option(min=1, help="Partitions of a topic that has to be made. [default: 4]")]


@produce_app.command("orders")
def produce_orders(
    count: Annotated[int, typer.Option(min=1, help="How many orders.")] = 100_000,
    rate: Rate = None,
    bad: Bad = 0.0,
    seed: Seed = 1,
    topic: ToTopic = None,
    partitions: Partitions = None,
) -> None:
    """Send generated orders to Kafka; exit 75 unless every one of them is acknowledged.

    The key is the customer; about half of the orders bring an `id`. Kafka is where KAFKA_BOOTSTRAP_SERVERS (and the
    other KAFKA_ settings) say. The topic is made when it is missing.
    """
    with _own_flow("orders"):
        from waxwing.cli.produce import Where, produce_orders

    produce_orders(Where(topic, partitions, rate), count, bad=bad, seed=seed)


class TsStyle(StrEnum):
    """How readings tell their time."""

    none = "none"
    seconds = "seconds"
    fraction = "fraction"
    iso = "iso"
    mixed = "mixed"


@produce_app.command("sensors")
def produce_sensors(
    count: Annotated[int, typer.Option(min=1, help="How many readings.")] = 100_000,
    rate: Rate = None,
    bad: Bad = 0.0,
    late: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of readings half an hour behind the others, which say so by `ts`.")
    ] = 0.0,
    seed: Seed = 1,
    sensors: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many sensors: Sensor 1, Sensor 2, ...")] = 10,
    ts: Annotated[
        TsStyle,
        typer.Option(
            help="How a reading tells its time, up to 5 s out of order; none: by its message; mixed: the others in turn."
        ),
    ] = TsStyle.none,
    topic: ToTopic = None,
    partitions: Partitions = None,
) -> None:
    """Send readings of simulated sensors to Kafka; exit 75 unless every one of them is acknowledged.

    The key is the sensor's name; measure1 is spread around 37 as gauss(37, 7), measure2 is anywhere from 0 to 1. Kafka is where
    KAFKA_BOOTSTRAP_SERVERS (and the other KAFKA_ settings) say. The topic is made when it is missing.
    """
    with _own_flow("sensors"):
        from waxwing.cli.produce import Where, produce_sensors

    where = Where(topic, partitions, rate)
    produce_sensors(where, count, bad=bad, late=late, seed=seed, sensors=sensors, ts=ts.value)


@contextmanager
def _own_flow(name: str) -> Iterator[None]:
    """Around the import of what needs a flow of Waxwing's own."""
    try:
        yield
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("dataflows"):
            raise
        from waxwing.errors import ConfigError

        raise ConfigError(
            f"`waxwing produce {name}` is a part of Waxwing's own flow, dataflows/{name}.py, which is not installed.",
            hint="Run it in a clone of Waxwing.",
        ) from error


@app.command()
def resume(
    flow: FlowName,
    records: Annotated[int, typer.Option(min=1, help="How many records of each partition may pass.")] = 10_000,
) -> None:
    """Let a flow that stopped at too many bad rows (exit 65) go on: the next records pass without the limits.

    Bad ones become dead letters as always. Stop the flow before, and start it again afterwards.
    """
    from waxwing.cli.positions import resume

    resume(flow, records)


@step_app.command("rename")
def step_rename(flow: FlowName, old: Annotated[str, typer.Argument()], new: Annotated[str, typer.Argument()]) -> None:
    """Give the stored positions of step OLD to step NEW, and its dead letters: the step was renamed in the code.

    Stop the flow before.
    """
    from waxwing.cli.positions import rename

    rename(flow, old, new)


@step_app.command("drop")
def step_drop(
    flow: FlowName,
    old: Annotated[str, typer.Argument()],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    with_dead_letters: Annotated[bool, typer.Option("--with-dead-letters", help="Delete its dead letters as well.")] = False,
) -> None:
    """Forget the stored positions of step OLD: the step was taken out of the code. Its dead letters stay.

    A step of that name would begin anew, and write everything again. Stop the flow before.
    """
    from waxwing.cli.positions import drop

    drop(flow, old, yes=yes, dead_letters=with_dead_letters)


@flow_app.command("rename")
def flow_rename(
    old: Annotated[str, typer.Argument(help="The flow's name so far.")],
    new: Annotated[str, typer.Argument(help="Its name now, as given to Dataflow(...).")],
) -> None:
    """Give all that is stored of flow OLD to flow NEW: the flow was renamed in the code.

    Positions, windows with their open state, owners and dead letters, in each database of the flow. Refused while the flow
    runs, and where NEW has positions of its own.
    """
    from waxwing.cli.positions import rename_flow

    rename_flow(old, new)


@app.command()
def rebucket(
    flow: Annotated[str, typer.Argument(help="`orders` (short for dataflows.orders), or your own flow's module.")],
) -> None:
    """Divide the state of the flow's windows into WINDOW_BUCKETS buckets. Stop the flow cleanly before.

    With more buckets more processes can share the work; fewer cost less.
    """
    from waxwing.cli.positions import rebucket

    rebucket(flow)


@app.command()
def status(flow: FlowName) -> None:
    """Show how far a flow is: its positions, how far they are behind Kafka, and its dead letters by reason.

    Reads the database that DATABASE_URL names, those of further settings of the flow (or ALARMS_DATABASE_URL and the like),
    and asks Kafka where KAFKA_BOOTSTRAP_SERVERS is given. Changes nothing.
    """
    from waxwing.cli.positions import status

    status(flow)


@app.command()
def drivers() -> None:
    """List the ODBC drivers for SQL Server that are found, the one that would be used first.

    Exit 78 where there is none, or where the system lacks unixODBC.
    """
    from waxwing.cli.drivers import show

    show()


class Format(StrEnum):
    """How settings are shown."""

    table = "table"
    env = "env"
    markdown = "markdown"


@app.command()
def types() -> None:
    """Print which column types of existing tables are written, exact how far, and which are refused: docs/types.md."""
    import sys

    from waxwing.databases.types_page import page

    sys.stdout.write(page())


@app.command()
def settings(
    flow: Annotated[str, typer.Argument(help="`orders`, or your own flow's module.")] = "orders",
    as_: Annotated[
        Format, typer.Option("--format", help="table: what holds now; env: a .env to start from; markdown: the reference.")
    ] = Format.table,
) -> None:
    """Show all settings of a flow: what holds now, and where it comes from. Secrets are hidden."""
    from waxwing.cli.reference import show

    show(flow, as_.value)
