"""The small HTTP server: metrics and health today, pages later."""
