"""The world out: verdicts become Kafka messages, metrics and log lines."""
