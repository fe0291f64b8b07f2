"""From records to what a reader sees: metrics, verdicts, tables, reports, figures, executed notebooks."""
