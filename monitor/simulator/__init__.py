"""A contact centre in a box: simulated Twilio traffic and an embedded broker. It imports nothing of ``monitor.core``."""
