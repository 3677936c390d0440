"""`make bench`: this service beside its peers, on the same servers, in one run. See docs/performance.md."""
