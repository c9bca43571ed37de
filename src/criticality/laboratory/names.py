"""What can be trained, by name."""

TASKS = ("digits", "code", "code-gpt", "fashion-vit")

STACKED = ("fashion-resnet", "fashion-mlp")
"""Tasks that are trained in a stack."""
