"""Rows: batch, feature schema, decoders, alignment by event time, and the Kafka log by offset."""
