"""Recording Monitor: judges every Twilio recording in an event stream against a declared policy."""

__version__ = "0.1.0"
