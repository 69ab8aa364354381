"""What an account is set up to do: everything in it that can start a recording, held against the policy.

Pure: ``monitor.inputs.account`` asks Twilio, these modules only think about the answers.
"""
