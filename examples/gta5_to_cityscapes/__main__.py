"""``python -m examples.gta5_to_cityscapes``."""

from .command_line import main

if __name__ == "__main__":
    main()
