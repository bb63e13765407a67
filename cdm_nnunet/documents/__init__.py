"""Reader for external JSON and YAML files, with limits, types, and messages with line and column."""

from cdm_nnunet.documents.differing import differences
from cdm_nnunet.documents.faults import TAG_MARK, Fault, faults_of, field_name, refuse, summary
from cdm_nnunet.documents.html_text import html_table
from cdm_nnunet.documents.numbers import read_number, stray_character
from cdm_nnunet.documents.places import Path, Place
from cdm_nnunet.documents.reading import (
    Checked,
    Document,
    check,
    in_order,
    json_document,
    parse_json,
    plain_document,
    read_json,
    read_text,
    read_yaml,
    typed,
    yaml_document,
)
from cdm_nnunet.documents.records import STRICT, plain, schema_of

__all__ = [
    "STRICT",
    "TAG_MARK",
    "Checked",
    "Document",
    "Fault",
    "Path",
    "Place",
    "check",
    "differences",
    "faults_of",
    "field_name",
    "html_table",
    "in_order",
    "json_document",
    "parse_json",
    "plain",
    "plain_document",
    "read_json",
    "read_number",
    "read_text",
    "read_yaml",
    "refuse",
    "schema_of",
    "stray_character",
    "summary",
    "typed",
    "yaml_document",
]
