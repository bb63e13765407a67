"""The fuzzer as a command: ``python tests/fuzz --seconds 1200 --seed 7``."""

import argparse
import sys

from engine import fuzz
from subjects import SUBJECTS

parser = argparse.ArgumentParser(description="Spoil files of every kind, read them, and count what must not be.")
parser.add_argument("--seconds", type=float, default=1200)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--only", nargs="*", choices=list(SUBJECTS), help="subjects (default: all)")
args = parser.parse_args()
found = fuzz(args.seconds, args.seed, args.only)
print(found)
sys.exit(1 if found.failures else 0)
