"""``python -m examples.gta5_to_cityscapes``."""

import sys

from .console import escape_unprintable


def start() -> None:
    """Import and run the commands; a stop during the imports and a package that is absent need no traceback."""
    escape_unprintable()
    try:
        from .cli.app import main

        main()
    except KeyboardInterrupt:
        print("Interrupted before anything was begun.", file=sys.stderr)
        sys.exit(130)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("examples", "stuffinstance.")):
            raise  # a fault in here, which no installation mends
        extras = "examples,transformers" if error.name == "transformers" else "examples"
        print(
            f"error: the Python package {error.name} is not installed for {sys.executable}. Install the example's "
            f"packages with `pip install -e '.[{extras}]'` from the clone, or use .venv/bin/python after `make`.",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    start()
