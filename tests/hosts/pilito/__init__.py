"""A small host of the shape of Pilito: Django 5.1, its Redis cache, and Channels. Never imported by the tests: run."""
