import sys

from rwp_edu.cli import main

sys.exit(main())
