"""What can be trained, by name."""

TASKS = ("digits", "code", "code-gpt", "fashion-vit")
