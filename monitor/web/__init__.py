"""The HTTP server: metrics and health, and the pages about cases."""
