"""The intake: takes events from the JSON queue and the outbox and passes them on, in batches."""
