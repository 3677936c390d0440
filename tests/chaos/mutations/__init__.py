"""`make mutations`: each safeguard is removed once, and a test must see it."""
