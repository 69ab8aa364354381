"""A contact centre in a box: simulated Twilio traffic, an embedded broker. It imports nothing of ``monitor.core``."""
