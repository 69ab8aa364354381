"""The world in: Kafka, files and settings become bytes and values for the core."""
