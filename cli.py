"""`python cli.py …` from a checkout is `kinembed …`."""

from kinembed.cli import main

if __name__ == "__main__":
    main()
