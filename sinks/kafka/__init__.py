"""Topics of Kafka as targets."""

from sinks.kafka.target import KafkaTarget
from sinks.kafka.windows import KafkaWindows

__all__ = ["KafkaTarget", "KafkaWindows"]
