"""What reads from outside is fed what nobody should send. A few rounds in the tests; for minutes with `make fuzz`."""
