"""The conversions of ``cdm-nnunet convert``: each module here is one, found by its name.

A conversion is a module with ``SUMMARY`` and ``EXAMPLE`` (text for help), ``configure(parser)``, and ``run(args)`` that
returns a record, as from :func:`cdm_nnunet.cli._conversion.converted`. It imports heavy modules inside ``run``.
"""
