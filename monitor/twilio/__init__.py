"""The one home of what speaks to Twilio's REST API: through Twilio's own package, over a transport of ours."""
