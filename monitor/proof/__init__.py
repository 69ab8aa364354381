"""Whether a session of test calls proves anything: what was seen of them, what is missing, how it is said.

Pure: messages and Twilio's answers come in as values. ``commands/verify`` reads them.
"""
