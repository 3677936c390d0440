"""In front of Celery's own consumer: what would kill, livelock or loop a worker is parked in rejected_events."""
