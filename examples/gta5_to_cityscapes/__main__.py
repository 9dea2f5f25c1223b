"""``python -m examples.gta5_to_cityscapes``."""

from .commands.app import main

if __name__ == "__main__":
    main()
