"""Customers, conversations and the agents' list of them."""
