import sys

from tiny_math_solver.cli import main

if __name__ == "__main__":
    sys.exit(main())
