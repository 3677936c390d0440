"""Django's settings, from the environment: DATABASE_URL, REDIS_URL, DJANGO_SECRET_KEY."""

import os
from urllib.parse import unquote, urlsplit

_database = urlsplit(os.environ["DATABASE_URL"])

SECRET_KEY = "only for tests"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["channels", "tests.hosts.pilito.message.apps.Message"]
ROOT_URLCONF = "tests.hosts.pilito.urls"
ASGI_APPLICATION = "tests.hosts.pilito.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _database.path.lstrip("/"),
        "USER": unquote(_database.username or ""),
        "PASSWORD": unquote(_database.password or ""),
        "HOST": _database.hostname or "",
        "PORT": _database.port or "",
    }
}
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": os.environ["REDIS_URL"],
        "TIMEOUT": 300,
    }
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {
            # redis-py 8 gives up after 5 s, as long as a consumer waits; the host's own version does not.
            "hosts": [{"address": os.environ["REDIS_URL"], "socket_timeout": None}],
            "capacity": 1500,
            "expiry": 60,
            "group_expiry": 86_400,
            "symmetric_encryption_keys": [os.environ.get("DJANGO_SECRET_KEY", "fallback-key")[:32].ljust(32, "x")],
        },
    }
}
