"""Django's commands: `python -m tests.hosts.pilito.manage migrate`."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.hosts.pilito.settings")
    execute_from_command_line(sys.argv)
