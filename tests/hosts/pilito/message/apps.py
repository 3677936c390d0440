from django.apps import AppConfig


class Message(AppConfig):
    name = "tests.hosts.pilito.message"
    label = "message"
