"""One self-contained HTML file that renders the result record; described in ``docs/report.md``."""
