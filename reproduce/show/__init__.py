"""From records and verdicts to what a reader sees: tables, reports, figures, executed notebooks."""
