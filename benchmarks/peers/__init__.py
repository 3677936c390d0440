"""What the service is compared with, each as its own documentation teaches."""
