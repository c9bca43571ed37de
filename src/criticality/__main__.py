"""``python -m criticality``."""

from criticality.cli.main import main

if __name__ == "__main__":
    main(prog_name="criticality")
