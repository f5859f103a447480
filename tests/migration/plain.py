"""A flow that ends in plain Bytewax sinks, so that Bytewax's recovery store keeps its state. It runs on earlier releases too."""

from __future__ import annotations

import bytewax.operators as op
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow

from dataflows.orders import RawOrder, enrich, per_customer
from sources.kafka import KafkaSource
from waxwing import runtime
from waxwing.configuration import load
from waxwing.operators import map_batch, parse
from waxwing.operators.windows.plain import windows
from waxwing.settings import KafkaSettings

PARTITIONS, BUCKETS = 3, 2


def flow() -> Dataflow:
    """The flow on a real topic."""
    with runtime.starting():
        source = KafkaSource(load(KafkaSettings), flow="plain")
        flow = Dataflow("plain")
        rows = map_batch("enrich", parse("parse", op.input("kafka", flow, source), RawOrder), enrich)
        out = windows("totals", rows, per_customer, partitions=PARTITIONS, buckets=BUCKETS)
        op.output("rows", out.rows, StdOutSink())
        return flow
