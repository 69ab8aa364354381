"""The tests, and what they share: builders, brokers, samples."""
