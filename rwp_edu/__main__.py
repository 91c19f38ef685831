import sys

from rwp_edu.cli import main

if __name__ == "__main__":
    sys.exit(main())
