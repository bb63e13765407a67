"""``cdm-nnunet demo``: synthetic patients and every step on a CPU."""

SUMMARY = "run every step on synthetic patients"
EXAMPLE = "cdm-nnunet demo -o cdm_demo"


def configure(parser):
    parser.add_argument("-o")


def run(args):
    return {}


def render(record):
    return ""
