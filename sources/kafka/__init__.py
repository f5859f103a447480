"""The Kafka source: one topic, several, or all whose names fit a pattern, in a fixed number of lanes."""

from sources.kafka.source import KafkaSource

__all__ = ["KafkaSource"]
