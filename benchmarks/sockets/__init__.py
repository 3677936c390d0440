"""Thousands of open sockets on one process: this service's gateway beside Django Channels."""
