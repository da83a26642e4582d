"""The command `embedkit`, also as `python -m embedkit`. It answers signals before it loads anything else."""

from embedkit import stopping


def run() -> None:
    """The console command `embedkit`."""
    stopping.at_once()
    from embedkit import cli

    cli.run()


if __name__ == "__main__":
    run()
