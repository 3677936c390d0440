"""The rows that the host keeps. What it does with them is not here."""

from django.db import models


class Owner(models.Model):
    username = models.CharField(max_length=150, unique=True)

    class Meta:
        db_table = "accounts_user"


class Customer(models.Model):
    first_name = models.CharField(max_length=100, blank=True, null=True)  # as the host has it: NULL and '' both


class Conversation(models.Model):
    id = models.CharField(primary_key=True, max_length=10)
    title = models.CharField(max_length=100, blank=True, null=True)
    status = models.CharField(max_length=60, default="active")
    is_active = models.BooleanField(default=True)
    source = models.CharField(max_length=90, default="unknown")
    priority = models.PositiveSmallIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    user = models.ForeignKey(Owner, on_delete=models.CASCADE)
    customer = models.ForeignKey(Customer, on_delete=models.CASCADE)
