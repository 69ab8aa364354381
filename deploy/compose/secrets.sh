#!/bin/sh
# Makes the secrets that docker-compose.yml names, made up at random, where there are none. Put your own in their place.
set -eu
directory=${1:-deploy/compose/secrets}
mkdir -p "$directory"
# Nobody else on this host comes through the directory; the containers, as other users, read the files themselves.
chmod 0700 "$directory"
for name in twilio-auth-token pagerduty-routing-key dead-man-token smtp-password grafana-admin-password; do
    test -e "$directory/$name" || od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$directory/$name"
done
test -e "$directory/slack-url" || printf 'http://receiver:8090/chat' >"$directory/slack-url"
chmod 0444 "$directory"/*
echo "The secrets are in $directory; Grafana's password for admin: $directory/grafana-admin-password"
