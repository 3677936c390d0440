#!/bin/sh
# Over HTTP, from anything that can send a request.
#   GATEWAY_URL=http://127.0.0.1:8000 TOKEN=... sh curl.sh abc123 billing
# 202 comes after the event is durably stored. No answer, or 503: send it again with the same event_id.
set -eu

event_id="${EVENT_ID:-curl-$(date +%s)-$$}"
body=$(printf '{"event_id": "%s", "conversation_id": "%s", "destination": "%s", "source": "examples/curl"}' \
    "$event_id" "$1" "$2")

curl --silent --show-error --fail-with-body --max-time 10 --retry 3 \
    --header "Content-Type: application/json" \
    ${TOKEN:+--header "Authorization: Bearer $TOKEN"} \
    --data "$body" \
    "${GATEWAY_URL:-http://127.0.0.1:${PORT:-8000}}/events"
