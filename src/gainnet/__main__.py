"""``python -m gainnet``: the command line."""

from gainnet.apps.cli import main

if __name__ == "__main__":
    main()
